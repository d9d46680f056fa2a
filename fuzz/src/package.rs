//! Imports a kernel from a package: an RPM with its cpio, a Debian package with its tar, or any of its parts.

use std::fs;

use banger_image::{Silent, import_kernel};

pub(crate) fn run(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("kernel");
    fs::create_dir(&target).expect("a directory");
    let imported = import_kernel(data, &target, &Silent);
    let beside = fs::read_dir(directory.path()).expect("a directory").count();
    assert_eq!(beside, 1, "the package has written beside its directory");
    let written = fs::read_dir(&target).expect("a directory").count();
    assert!(imported.is_ok() || written == 0, "a failed import leaves files");
}
