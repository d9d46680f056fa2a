//! Images: imported, pulled, made of one another and of VMs, listed, deleted.
//!
//! [`Images`] owns them. Its methods are spread over the files by where an image comes from.

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
