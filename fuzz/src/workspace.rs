//! Reads a workspace's listing (if the first byte is odd) or files from a guest: all paths are safe.

use banger_files::{FileRequest, PathWriter, safe_path};
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
        let requested = [&b"a"[..], b"a/b", b".git/index"];
        let request = FileRequest::new(requested.map(|path| (path.to_vec(), 100)));
        for path in read_files(&*stream, request).into_iter().flatten().map(|(path, _)| path) {
            assert!(requested.contains(&&*path));
        }
    }
}
