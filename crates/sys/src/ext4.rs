//! ext4 while it is mounted.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{Setter, ioctl, opcode};

/// Lets the mounted ext4 of which `folder` is the root grow to `blocks` blocks of its own. The kernel does it with the
/// journal, so that a crash leaves the old size or the new; what has that size already stays as it is.
///
/// # Errors
/// When it is no ext4, or the device is smaller.
pub fn grow_ext4(folder: impl AsFd, blocks: u64) -> io::Result<()> {
    // EXT4_IOC_RESIZE_FS of <linux/ext4.h>: _IOW('f', 16, __u64).
    const RESIZE: rustix::ioctl::Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: the opcode takes a pointer to a u64 that the kernel only reads, and it is the right one by that header.
    Ok(unsafe { ioctl(folder, Setter::<RESIZE, u64>::new(blocks)) }?)
}
