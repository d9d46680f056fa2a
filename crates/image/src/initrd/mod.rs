//! The boot initrd: the agent as `/init` and the kernel modules needed before the root file system is mounted.
//!
//! One initrd serves every VMM: it loads virtio over PCI and over memory-mapped registers. It is not compressed,
//! because both VMMs copy it into memory, and decompression would cost the guest more than reading does. The same
//! kernel and agent give the same bytes.

mod build;
mod cpio;

pub use build::{InitrdInfo, build_initrd};
