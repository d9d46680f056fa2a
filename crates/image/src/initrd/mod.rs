//! The boot initrd: the agent as `/init`, the modules its kernel needs before there is a root file system, nothing else.
//!
//! One initrd serves every VMM: it loads virtio over PCI and over memory-mapped registers. It is not compressed, since
//! both VMMs copy it into memory and unpacking would cost the guest more than reading does. The same kernel and agent
//! give the same bytes.

mod build;
mod cpio;

pub use build::{InitrdInfo, build_initrd};
