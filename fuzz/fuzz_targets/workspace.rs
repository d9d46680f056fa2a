//! What a guest says of its workspace: a listing, or files that were asked for. Whatever comes, the paths are safe ones.
#![no_main]

use banger_files::{PathWriter, safe_path};
use banger_workspace::{read_files, read_listing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (is_listing, bytes) = input;
    if is_listing {
        let listing = [b"bnl\x01", bytes].concat();
        for listed in read_listing(&*listing).into_iter().flatten() {
            assert!(safe_path(&listed.path));
        }
    } else {
        // As the agent begins; the rest is the guest's.
        let mut stream = Vec::new();
        PathWriter::new(&mut stream).expect("memory takes it");
        stream.extend_from_slice(bytes);
        for path in read_files(&*stream).into_iter().flatten().map(|(path, _)| path) {
            assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
        }
    }
});
