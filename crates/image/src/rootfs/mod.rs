//! Root file systems: converts tars to one ext4 file, without unpacking anything onto the host's file system.

mod archive;
mod check;
mod commit;
mod content;
mod copy;
mod declare;
mod empty;
pub mod fuzzing;
mod index;
mod inspect;
mod layers;
mod overlay;
mod spool;
mod tree;
mod write;
mod xattr;

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod tests;

pub use check::check_ext4;
pub use commit::{Disks, commit_rootfs, inspect_rootfs};
pub use copy::copy_rootfs;
pub use empty::write_empty_ext4;
pub use write::{RootfsInfo, RootfsOptions};

pub(crate) use archive::Archive;
pub(crate) use check::verify_ext4;
pub(crate) use layers::{UnpackedLayer, write_layers};
