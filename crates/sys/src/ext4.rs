//! Operations on a mounted ext4 file system.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{Setter, ioctl, opcode};

/// Grows the mounted ext4 that has this root directory to `blocks` of its blocks. The kernel journals the change, so
/// that a crash leaves the old size or the new. A file system of that size is not changed.
///
/// # Errors
/// Returns an error if it is not an ext4, or the device is smaller.
pub fn grow_ext4(root: impl AsFd, blocks: u64) -> io::Result<()> {
    // EXT4_IOC_RESIZE_FS of <linux/ext4.h>: _IOW('f', 16, __u64).
    const RESIZE: rustix::ioctl::Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: the opcode takes a pointer to a u64 that the kernel only reads, and it is the right one by that header.
    Ok(unsafe { ioctl(root, Setter::<RESIZE, u64>::new(blocks)) }?)
}
