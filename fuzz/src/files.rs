//! Unpacks the stream that a guest sends for `vm cp`, twice: only the requested name changes.

use std::{fs, path::Path};

use banger_files::{CopyRequest, Unpacked, Writer, unpack_requested};

pub(crate) fn run(data: &[u8]) {
    // Every stream begins with the same header.
    let mut stream = Vec::new();
    Writer::new(&mut stream).expect("a vector accepts all writes");
    stream.extend_from_slice(data);
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("target");
    fs::create_dir(&target).expect("a directory");
    fs::write(directory.path().join("beside"), "untouched").expect("a file");
    let request = CopyRequest::new(Path::new("/srv/report.txt"), false);
    // Into the directory, then over what the first copy has created.
    for to in [target.clone(), target.join("report.txt")] {
        let _ = unpack_requested(stream.as_slice(), &request, &to, &mut Unpacked::default());
    }
    assert_eq!(fs::read(directory.path().join("beside")).expect("the file exists"), b"untouched");
    assert!(names(directory.path()).iter().all(|name| name == "beside" || name == "target"));
    assert!(names(&target).iter().all(|name| name == "report.txt"));
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name()).collect()
}
