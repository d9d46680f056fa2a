//! Unpacks the stream that a guest sends for `vm cp`: nothing outside the target changes.

use std::fs;

use banger_files::{Unpacked, Writer, unpack};

pub(crate) fn run(data: &[u8]) {
    // Every stream begins with the same header.
    let mut stream = Vec::new();
    Writer::new(&mut stream).expect("a vector accepts all writes");
    stream.extend_from_slice(data);
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("beside"), "untouched").expect("a file");
    let _ = unpack(stream.as_slice(), &directory.path().join("target"), &mut Unpacked::default());
    assert_eq!(fs::read(directory.path().join("beside")).expect("the file exists"), b"untouched");
    let names =
        fs::read_dir(directory.path()).expect("a directory").map(|entry| entry.expect("entry").file_name());
    assert!(names.into_iter().all(|name| name == "beside" || name == "target"));
}
