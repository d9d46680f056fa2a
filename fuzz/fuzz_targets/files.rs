//! What a guest sends for `vm cp`, unpacked: only in the place that was named, and nothing else is touched.
#![no_main]

use std::fs;

use banger_files::{Unpacked, Writer, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|items: &[u8]| {
    // What every stream begins with; the rest is the guest's.
    let mut stream = Vec::new();
    Writer::new(&mut stream).expect("memory takes it");
    stream.extend_from_slice(items);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("beside"), "untouched").expect("a file");
    let _ = unpack(stream.as_slice(), &folder.path().join("target"), &mut Unpacked::default());
    assert_eq!(fs::read(folder.path().join("beside")).expect("it is there"), b"untouched");
    let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("entry").file_name());
    assert!(names.into_iter().all(|name| name == "beside" || name == "target"));
});
