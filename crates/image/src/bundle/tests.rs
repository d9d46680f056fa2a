//! Tests of bundles: round trips, extraction with GNU tar, hostile input.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::archive::testing::TarWriter;
use crate::{FailureKind, ImageError, RootfsInfo, Silent, write_empty_ext4};

const SIZE: u64 = 64 << 20;

fn image() -> BundleImage {
    BundleImage {
        name: "ours:1".parse().unwrap(),
        os: Some("Ours 1".into()),
        init: Some("/sbin/init".into()),
        kernel: Some("debian-cloud".parse().unwrap()),
        config: ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() },
        entries: 3,
    }
}

/// Writes a file system and a bundle of it.
fn bundle(dir: &Path) -> (PathBuf, Vec<u8>) {
    let rootfs = dir.join("rootfs");
    write_empty_ext4(&rootfs, SIZE, "x").unwrap();
    let mut bytes = Vec::new();
    write_bundle(image(), &rootfs, &mut bytes, Path::new("out"), &Silent).unwrap();
    (rootfs, bytes)
}

fn read(dir: &Path, bytes: &[u8], expected: Option<Digest>) -> Result<RootfsInfo, ImageError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    open_bundle(file, &Silent)?.write(expected, &dir.join("back"))
}

/// Creates a compressed tar of these members.
fn compressed_tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::default();
    for (name, content) in members {
        tar.raw(b'0', name.as_bytes(), b"", content.len() as u64, content);
    }
    tar.bytes.extend([0; 1024]);
    zstd::encode_all(&tar.bytes[..], 1).unwrap()
}

fn manifest(rootfs: &[u8]) -> serde_json::Value {
    let sha256 = Digest::sha256(Sha256::digest(rootfs).into());
    serde_json::json!({
        "version": 1, "name": "x", "arch": "amd64", "entries": 1, "size": rootfs.len(), "sha256": sha256,
    })
}

#[test]
fn a_bundled_image_is_restored_byte_for_byte_and_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, bytes) = bundle(dir.path());
    let info = read(dir.path(), &bytes, None).unwrap();
    let back = dir.path().join("back");
    assert!(fs::read(&rootfs).unwrap() == fs::read(&back).unwrap());
    assert!(fs::metadata(&back).unwrap().blocks() * 512 < SIZE / 2);
    assert_eq!((info.size, info.os, info.config), (SIZE, image().os, image().config));
}

#[test]
fn a_copy_without_holes_gives_the_same_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, bytes) = bundle(dir.path());
    let full = dir.path().join("full");
    fs::write(&full, fs::read(&rootfs).unwrap()).unwrap();
    let mut again = Vec::new();
    write_bundle(image(), &full, &mut again, Path::new("out"), &Silent).unwrap();
    assert!(bytes == again);
}

#[test]
fn gnu_tar_extracts_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, bytes) = bundle(dir.path());
    let path = dir.path().join("b.tar.zst");
    fs::write(&path, bytes).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(&path).arg("-C").arg(&out).status().unwrap();
    assert!(tar.success());
    assert!(fs::read(out.join(ROOTFS)).unwrap() == fs::read(rootfs).unwrap());
    assert!(fs::metadata(out.join(ROOTFS)).unwrap().blocks() * 512 < SIZE / 2);
    assert!(fs::read_to_string(out.join(MANIFEST)).unwrap().contains("\"name\": \"ours:1\""));
}

#[test]
fn truncated_or_mismatched_bundles_are_rejected_without_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bytes) = bundle(dir.path());
    let before = fs::read_dir(dir.path()).unwrap().count();
    let refused = |bytes: &[u8], expected| {
        let error = read(dir.path(), bytes, expected).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Invalid, "{error:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "{error:?}");
        error
    };
    for cut in [7, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..cut], None);
    }
    assert!(matches!(refused(b"", None), ImageError::Bundle(BundleError::NotZstd)));
    let wrong = Some(Digest::sha256([7; 32]));
    assert!(matches!(refused(&bytes, wrong), ImageError::Digest { what: "the bundle", .. }));
    read(dir.path(), &bytes, Some(Digest::sha256(Sha256::digest(&bytes).into()))).unwrap();
}

#[test]
fn hostile_bundles_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let rootfs = vec![7; 4096];
    let good = manifest(&rootfs);
    let with = |key: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        manifest[key] = value;
        manifest.to_string()
    };
    let text = good.to_string();
    let refused = |members: &[(&str, &[u8])]| {
        let error = read(dir.path(), &compressed_tar(members), None).unwrap_err();
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "{error:?}");
        assert_eq!(error.kind(), FailureKind::Invalid, "{error:?}");
        match error {
            ImageError::Bundle(error) => error.to_string(),
            error => error.to_string(),
        }
    };
    let order = refused(&[(ROOTFS, &rootfs), (MANIFEST, text.as_bytes())]);
    assert_eq!(order, "expected the file manifest.json, found \"rootfs.ext4\"");
    let escape = refused(&[(MANIFEST, text.as_bytes()), ("../rootfs.ext4", &rootfs)]);
    assert_eq!(escape, "expected the file rootfs.ext4, found \"../rootfs.ext4\"");
    let none = refused(&[(MANIFEST, text.as_bytes())]);
    assert_eq!(none, "expected the file rootfs.ext4, found the end of the archive");
    let two = refused(&[(MANIFEST, text.as_bytes()), (ROOTFS, &rootfs), (ROOTFS, &rootfs)]);
    assert!(two.starts_with("unexpected \"rootfs.ext4\""), "{two}");
    let long = refused(&[(MANIFEST, &vec![b' '; 2 << 20])]);
    assert!(long.contains("the limit is 1048576"), "{long}");
    for (key, value, problem) in [
        ("version", 2.into(), "version 2"),
        ("arch", "arm64".into(), "arm64"),
        ("name", "../x".into(), "registry host"),
        ("size", (1u64 << 60).into(), "out of range"),
        ("size", 8192.into(), "has 4096 bytes; its manifest.json says 8192"),
        ("init", "x\n".into(), "not a valid absolute path"),
        ("more", 1.into(), "unknown field `more`"),
        ("config", serde_json::json!({ "cmd": ["\0"] }), "a NUL"),
        (
            "config",
            serde_json::json!({ "cmd": ["\x1b".repeat(30_000)] }),
            "its config has more than 131072 bytes",
        ),
        ("os", "a\u{202e}b".into(), "hidden characters"),
        ("init", format!("/{}", "x".repeat(5000)).into(), "not a valid absolute path"),
        ("sha256", Digest::sha256([0; 32]).to_string().into(), "expected sha256:0000"),
    ] {
        let error = refused(&[(MANIFEST, with(key, value).as_bytes()), (ROOTFS, &rootfs)]);
        assert!(error.contains(problem), "{key}: {error}");
    }
    let other = refused(&[(MANIFEST, text.as_bytes()), (ROOTFS, &rootfs)]);
    assert!(other.contains("its superblock does not"), "{other}");
}

#[test]
fn a_damaged_file_system_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let (rootfs, _) = bundle(dir.path());
    let file = File::options().write(true).open(&rootfs).unwrap();
    file.write_all_at(&vec![0x5a; 1 << 20], 4096).unwrap();
    let mut bytes = Vec::new();
    write_bundle(image(), &rootfs, &mut bytes, Path::new("out"), &Silent).unwrap();
    let error = read(dir.path(), &bytes, None).unwrap_err();
    assert!(matches!(error, ImageError::Bundle(BundleError::FileSystem(_))), "{error:?}");
}

#[test]
fn images_larger_than_the_free_space_are_rejected_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let size = MAX_ROOTFS;
    let mut manifest = manifest(b"");
    manifest["size"] = size.into();
    let mut tar = TarWriter::default();
    let text = manifest.to_string();
    tar.raw(b'0', MANIFEST.as_bytes(), b"", text.len() as u64, text.as_bytes());
    let mut header = tar::Header::new_ustar();
    header.set_path(ROOTFS).unwrap();
    header.set_size(size);
    header.set_cksum();
    tar.bytes.extend(header.as_bytes());
    let error = read(dir.path(), &zstd::encode_all(&tar.bytes[..], 1).unwrap(), None).unwrap_err();
    assert_eq!(error.kind(), FailureKind::NoSpace, "{error:?}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}
