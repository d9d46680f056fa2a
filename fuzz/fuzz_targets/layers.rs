//! What a registry may call the layers of an image: up to three tars, refused or put over one another.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Blocks of a tar.
const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    // Checksums that fit, or next to nothing would get past the first header.
    let mut tars = rest.to_vec();
    for block in tars.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let blocks = tars.len() / BLOCK;
    let cut = |part: u8| (usize::from(part) * blocks / 16) * BLOCK;
    let (low, high) = (cut(first & 15), cut(first >> 4));
    let (low, high) = (low.min(high), low.max(high));
    let _ = banger_image::fuzzing::merge(&[&tars[..low], &tars[low..high], &tars[high..]]);
});
