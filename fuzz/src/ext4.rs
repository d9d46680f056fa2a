//! Reads a VM's ext4 file system: an error, or a description of bounded size. The input is the parts that are not zero.

use std::os::unix::fs::FileExt;

use banger_image::{Silent, inspect_rootfs};

/// Size of the file in bytes.
const SIZE: u64 = 256 << 10;

/// Unit of the parts' offsets, in bytes.
const UNIT: u64 = 16;

pub(crate) fn run(mut data: &[u8]) {
    let image = tempfile::NamedTempFile::new().expect("a file");
    image.as_file().set_len(SIZE).expect("a file can be extended");
    // Each part has its offset in two bytes, and its length in one.
    while let Some(([high, low, length], rest)) = data.split_first_chunk::<3>() {
        let (part, rest) = rest.split_at(rest.len().min((*length).into()));
        let offset = u64::from(u16::from_be_bytes([*high, *low])) * UNIT;
        image.as_file().write_all_at(part, offset % SIZE).expect("a file can be written");
        data = rest;
    }
    if let Ok(info) = inspect_rootfs(image.path(), &Silent) {
        assert!(info.entries <= SIZE && info.os.is_none_or(|os| os.len() <= 400));
    }
}
