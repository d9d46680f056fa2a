//! Images: imported, pulled, created from other images and from VMs, listed, deleted.
//!
//! [`Images`] owns them. Its methods are split into files by the source of an image.

mod bundles;
mod fetch_locks;
mod images;
mod names;
mod pull;
mod registered;
mod registered_file;
mod sources;

pub(crate) use images::staged_dir;
pub use images::{Images, Tar};
pub(crate) use registered_file::find_change;
