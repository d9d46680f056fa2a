//! Reads a workspace's listing (if the first byte is odd) or files from a guest: all paths are safe.

use banger_files::{PathWriter, safe_path};
use banger_workspace::{read_files, read_listing};

pub(crate) fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    if kind % 2 == 1 {
        let listing = [b"bnl\x01", bytes].concat();
        for listed in read_listing(&*listing).into_iter().flatten() {
            assert!(safe_path(&listed.path));
        }
    } else {
        // The agent's stream begins with the same header.
        let mut stream = Vec::new();
        PathWriter::new(&mut stream).expect("a vector accepts all writes");
        stream.extend_from_slice(bytes);
        for path in read_files(&*stream).into_iter().flatten().map(|(path, _)| path) {
            assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
        }
    }
}
