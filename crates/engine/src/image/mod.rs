//! Images: imported, pulled, created from other images and from VMs, listed, deleted.
//!
//! [`Images`] owns them. Its methods are split into files by the source of an image.

mod bundles;
mod images;
mod names;
mod outside;
mod pull;
mod registered;
mod sources;
mod turns;

pub(crate) use images::staged_dir;
pub use images::{Images, Tar};
pub(crate) use outside::problem_of;
