//! Root file systems: a tar in, one ext4 file out, nothing ever unpacked onto the host's file system.

mod check;
mod content;
mod declare;
mod empty;
mod import;
mod index;
mod inspect;
mod tree;
mod xattr;

#[cfg(test)]
mod tests;

pub use check::check_ext4;
pub use empty::write_empty_ext4;
pub use import::{RootfsInfo, RootfsOptions, import_rootfs, import_rootfs_file};
