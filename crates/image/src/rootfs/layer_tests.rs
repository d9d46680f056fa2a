//! Tests of merging layers: deletions and replacements, also compared with a model. e2fsck checks every image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;

use banger_api::Digest;
use mkext4::reader::Fs;
use proptest::prelude::*;
use sha2::Digest as _;

use super::layers::{UnpackedLayer, write_layers};
use super::{RootfsInfo, RootfsOptions};
use crate::archive::testing::{TarWriter, pipe};
use crate::{ArchiveError, EntryProblem, ImageError, Silent};

fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(sha2::Sha256::digest(bytes).into())
}

/// The file type of a directory in a directory entry (Linux, Documentation/filesystems/ext4/directory.rst).
const DIRECTORY: u8 = 2;

struct Image {
    dir: tempfile::TempDir,
    result: Result<RootfsInfo, ImageError>,
}

fn image(layers: &[Vec<u8>]) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let unpack = |tar: &Vec<u8>| UnpackedLayer::of(&tar[..], digest(tar), dir.path(), &Silent);
    let layers: Result<Vec<_>, _> = layers.iter().map(unpack).collect();
    let out = dir.path().join("image");
    let options = RootfsOptions { size: Some(16 << 20), label: String::new() };
    let result = layers.and_then(|layers| write_layers(layers, &out, &options, &Silent));
    if result.is_ok() {
        let fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&out).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
    }
    Image { dir, result }
}

impl Image {
    /// Returns every path, with the content of files.
    fn content(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        self.result.as_ref().unwrap();
        let fs = Fs::open(File::open(self.dir.path().join("image")).unwrap()).unwrap();
        let mut found = BTreeMap::new();
        let mut pending = vec![String::new()];
        while let Some(dir) = pending.pop() {
            let path = if dir.is_empty() { "/" } else { &dir };
            for entry in fs.read_dir(fs.resolve(path).unwrap()).unwrap() {
                let name = String::from_utf8(entry.name.clone()).unwrap();
                if matches!(&*name, "." | ".." | "lost+found") {
                    continue;
                }
                let path = format!("{dir}/{name}");
                let is_dir = entry.file_type == DIRECTORY;
                let file = (!is_dir).then(|| fs.read_file(entry.inode).unwrap());
                if is_dir {
                    pending.push(path.clone());
                }
                found.insert(path, file);
            }
        }
        found
    }

    fn names(&self) -> Vec<String> {
        self.content().into_keys().collect()
    }

    fn problem(self) -> (String, EntryProblem) {
        match self.result {
            Err(ImageError::Archive(ArchiveError::Entry { entry, problem })) => (entry, problem),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whiteouts_affect_only_lower_layers_in_any_order() {
    let base = TarWriter::default().directory("d").file("d/a", b"1").file("d/b", b"1").file("f", b"1").end();
    for names in [["d/.wh.a", "d/c"], ["d/c", "d/.wh.a"]] {
        let mut upper = TarWriter::default();
        names.iter().for_each(|name| _ = upper.file(name, b""));
        assert_eq!(image(&[base.clone(), upper.end()]).names(), ["/d", "/d/b", "/d/c", "/f"]);
    }
    // A whiteout does not affect its own layer's files, whether it comes before or after them.
    let both = TarWriter::default().file("d/a", b"2").file("d/.wh.a", b"").end();
    assert_eq!(image(&[base.clone(), both]).content()["/d/a"], Some(b"2".to_vec()));
    let dir = TarWriter::default().file(".wh.d", b"").file("d/new", b"").end();
    assert_eq!(image(&[base.clone(), dir]).names(), ["/d", "/d/new", "/f"]);
    let opaque = TarWriter::default().file("d/new", b"").file("d/.wh..wh..opq", b"").end();
    assert_eq!(image(&[base.clone(), opaque]).names(), ["/d", "/d/new", "/f"]);
    let all = TarWriter::default().file("x", b"").file(".wh..wh..opq", b"").end();
    assert_eq!(image(&[base.clone(), all]).names(), ["/x"]);
    // Whiteouts of missing files, of AUFS's own, repeated, and as a directory or link have no other effect.
    let mut odd = TarWriter::default();
    odd.file("no/.wh.where", b"").file(".wh..wh.plnk", b"").directory(".wh..wh.aufs").file("d/.wh.a", b"");
    odd.file("d/.wh.a", b"").symlink("d/.wh.b", "x").directory(".wh.f/");
    assert_eq!(image(&[base, odd.end()]).names(), ["/d"]);
}

#[test]
fn whiteouts_without_a_valid_name_are_rejected() {
    for name in [".wh.", "d/.wh.", ".wh..", "d/.wh...", "/.wh./"] {
        let layer = TarWriter::default().directory("d").file(name, b"").end();
        assert_eq!(image(&[layer]).problem(), (name.to_owned(), EntryProblem::Whiteout), "{name}");
    }
    let out = TarWriter::default().file("../.wh.etc", b"").end();
    assert_eq!(image(&[out]).problem().1, EntryProblem::DotDot("its name"));
}

#[test]
fn upper_layers_replace_entries_of_lower_layers() {
    let base = TarWriter::default()
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .file("a", b"1")
        .hard_link("b", "a")
        .directory("d")
        .file("d/x", b"1")
        .file("f", b"1")
        .end();
    let upper = TarWriter::default()
        // Through a link to a directory, which stays; a link between layers; a file for a directory, and the reverse.
        .file("lib/so", b"2")
        .hard_link("c", "b")
        .file("a", b"2")
        .file("d", b"2")
        .directory("f")
        .file("f/x", b"2")
        .end();
    let content = image(&[base, upper]).content();
    let file = |path: &str| content[path].as_deref();
    assert_eq!(file("/usr/lib/so"), Some(&b"2"[..]));
    assert_eq!((file("/a"), file("/b"), file("/c")), (Some(&b"2"[..]), Some(&b"1"[..]), Some(&b"1"[..])));
    assert_eq!((file("/d"), file("/f/x")), (Some(&b"2"[..]), Some(&b"2"[..])));
    assert!(!content.contains_key("/d/x"));
}

#[test]
fn file_names_are_case_sensitive() {
    let layer = TarWriter::default().file("README", b"1").file("readme", b"2").file("README", b"3").end();
    let content = image(&[layer]).content();
    assert_eq!((&content["/README"], &content["/readme"]), (&Some(b"3".to_vec()), &Some(b"2".to_vec())));
}

#[test]
fn equal_layers_give_equal_bytes_and_wrong_digests_are_rejected() {
    let layers = [
        TarWriter::default().directory("./").file("a", &vec![1; 300_000]).end(),
        TarWriter::default().end(),
        TarWriter::default().file(".wh.a", b"").file("zeros", &vec![0; 5 << 20]).end(),
    ];
    let bytes = |image: &Image| fs::read(image.dir.path().join("image")).unwrap();
    let (once, twice) = (image(&layers), image(&layers));
    assert_eq!(once.result.as_ref().unwrap(), twice.result.as_ref().unwrap());
    assert!(bytes(&once) == bytes(&twice));
    let dir = tempfile::tempdir().unwrap();
    for program in ["gzip", "zstd"] {
        let compressed = pipe(program, &["-c"], &layers[0]);
        assert!(UnpackedLayer::of(&compressed[..], digest(&layers[0]), dir.path(), &Silent).is_ok());
        let other = UnpackedLayer::of(&compressed[..], digest(&layers[1]), dir.path(), &Silent).unwrap_err();
        assert!(matches!(other, ImageError::Digest { .. }), "{other:?}");
    }
}

#[test]
fn a_decompression_bomb_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = Command::new("sh").args(["-c", "head -c 2049M /dev/zero | zstd -c"]).output().unwrap();
    let error = UnpackedLayer::of(&bomb.stdout[..], digest(b""), dir.path(), &Silent).unwrap_err();
    assert!(matches!(error, ImageError::Archive(ArchiveError::Bomb { .. })), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A layer's change to a path.
#[derive(Debug, Clone)]
enum Change {
    Directory,
    File(u8),
    Remove,
    Clear,
}

type Model = BTreeMap<String, Option<Vec<u8>>>;

fn below(path: &str) -> impl Fn(&String) -> bool {
    let prefix = format!("{path}/");
    move |other| other.starts_with(&prefix)
}

/// Applies a layer's changes as a layered file system would. Returns `None` if an entry's parent is not a directory.
fn model(model: &mut Model, changes: &[(String, Change)]) -> Option<()> {
    for (path, change) in changes {
        match change {
            Change::Remove => model.retain(|other, _| other != path && !below(path)(other)),
            Change::Clear if model.get(path) == Some(&None) => model.retain(|other, _| !below(path)(other)),
            _ => {}
        }
    }
    for (path, change) in changes {
        let content = match change {
            Change::Directory => None,
            Change::File(byte) => Some(vec![*byte]),
            _ => continue,
        };
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            if model.entry(path[..at].to_owned()).or_insert(None).is_some() {
                return None;
            }
        }
        let is_dir = content.is_none();
        let old = model.insert(path.clone(), content);
        if !(is_dir && old == Some(None)) {
            model.retain(|other, _| !below(path)(other));
        }
    }
    Some(())
}

fn tar_of(changes: &[(String, Change)]) -> Vec<u8> {
    let mut tar = TarWriter::default();
    for (path, change) in changes {
        let (dir, name) = path.rsplit_once('/').unwrap();
        match change {
            Change::Directory => tar.directory(path),
            Change::File(byte) => tar.file(path, &[*byte]),
            Change::Remove => tar.file(&format!("{dir}/.wh.{name}"), b""),
            Change::Clear => tar.file(&format!("{path}/.wh..wh..opq"), b""),
        };
    }
    tar.end()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn merged_layers_match_the_model(layers in proptest::collection::vec(
        proptest::collection::vec((
            "(/[ab]){1,3}",
            prop_oneof![
                Just(Change::Directory), any::<u8>().prop_map(Change::File), Just(Change::Remove), Just(Change::Clear),
            ],
        ), 0..8), 1..4))
    {
        let mut expected = Model::new();
        let is_valid = layers.iter().all(|layer| model(&mut expected, layer).is_some());
        let tars: Vec<_> = layers.iter().map(|layer| tar_of(layer)).collect();
        let image = image(&tars);
        if is_valid {
            prop_assert_eq!(image.content(), expected);
        } else {
            prop_assert!(matches!(image.problem().1, EntryProblem::ParentNotDirectory(_)));
        }
    }
}
