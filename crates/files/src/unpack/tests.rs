use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::{Source, Writer, pack, pack_input, stream::MAX_DEPTH};

/// A directory with `in`, where streams are unpacked, and `out`, which they must not change.
fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/file"), "untouched").unwrap();
    dir
}

fn pack_to_vec(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let unreadable =
        pack(&Source::open(path, false).unwrap(), &mut bytes, &mut |messages| panic!("{messages}")).unwrap();
    assert_eq!(unreadable, 0);
    bytes
}

fn copied(from: &Path, to: &Path) -> Result<Unpacked, UnpackError> {
    let mut done = Unpacked::default();
    unpack(&*pack_to_vec(from), to, &mut done).map(|()| done)
}

fn entry(name: &str) -> Entry {
    Entry { name: name.into(), mode: 0o6755, seconds: 1, nanoseconds: 2 }
}

/// Unpacks these items into `in`, each file with the content `word`.
fn unpacked(dir: &Path, items: &[Item]) -> Result<Unpacked, UnpackError> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    for item in items {
        writer.item(item).unwrap();
        if let Item::File(_) = item {
            writer.data(b"word").unwrap();
            writer.end_file(true).unwrap();
        }
    }
    let mut done = Unpacked::default();
    unpack(&*bytes, &dir.join("in"), &mut done).map(|()| done)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_is_copied_with_content_permissions_and_times() {
    let dir = dir();
    let tree = dir.path().join("a tree");
    let odd = OsStr::from_bytes(b"\xff odd\n");
    fs::create_dir_all(tree.join("empty")).unwrap();
    fs::write(tree.join(odd), "odd").unwrap();
    fs::write(tree.join("big"), vec![9; 200_000]).unwrap();
    fs::set_permissions(tree.join(odd), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../nowhere", tree.join("link")).unwrap();
    fs::set_permissions(tree.join("empty"), fs::Permissions::from_mode(0o555)).unwrap();
    let done = copied(&tree, &dir.path().join("in")).unwrap();
    assert_eq!(done, Unpacked { files: 3, broken: 0 });
    let copy = dir.path().join("in/a tree");
    assert_eq!(fs::read(copy.join("big")).unwrap(), vec![9; 200_000]);
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("../nowhere"));
    let [copied_meta, original_meta] = [&copy, &tree].map(|tree| fs::metadata(tree.join(odd)).unwrap());
    assert_eq!(copied_meta.mode() & 0o7777, 0o751, "all permissions except set-user-id");
    assert_eq!(
        (copied_meta.mtime(), copied_meta.mtime_nsec()),
        (original_meta.mtime(), original_meta.mtime_nsec())
    );
    assert_eq!(fs::metadata(copy.join("empty")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(names(&copy).len(), 4);
}

#[test]
fn targets_are_interpreted_as_by_cp() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    // A file: into a directory, as a new name, over a file, over the target of a link.
    copied(&at("out/file"), &at("in")).unwrap();
    copied(&at("out/file"), &at("in/new")).unwrap();
    fs::write(at("in/old"), "old").unwrap();
    symlink("old", at("in/link")).unwrap();
    copied(&at("out/file"), &at("in/link")).unwrap();
    assert_eq!(fs::read_to_string(at("in/old")).unwrap(), "untouched");
    assert_eq!(names(&at("in")), ["file", "link", "new", "old"]);
    // A directory: into a directory, as a new name, and only its content.
    copied(&at("out"), &at("in")).unwrap();
    copied(&at("out"), &at("in/as")).unwrap();
    copied(&at("out/."), &at("in/as/")).unwrap();
    assert_eq!(names(&at("in/as")), ["file"]);
    assert_eq!(names(&at("in/out")), ["file"]);
    // To places where it cannot go.
    let error = |from: &str, to: &str| copied(&at(from), &at(to)).unwrap_err().to_string();
    assert!(error("out/file", "missing/x").ends_with("/missing"), "{}", error("out/file", "missing/x"));
    assert!(error("out/file", "in/missing/").contains("there is no directory"));
    assert!(error("out/file", "in/new/").contains("is not a directory"));
    assert!(error("out/file", "in/new/x").ends_with("in/new is not a directory"));
    assert!(error("out", "in/new").contains("is not a directory"));
    fs::create_dir_all(at("in/dir/file")).unwrap();
    assert!(error("out/file", "in/dir").ends_with("file is a directory and is not replaced"));
}

#[test]
fn pipe_input_needs_a_file_name_and_keeps_existing_permissions() {
    let dir = dir();
    let mut bytes = Vec::new();
    pack_input(&b"text"[..], &mut bytes).unwrap();
    let to = |name: &str| unpack(&*bytes, &dir.path().join(name), &mut Unpacked::default());
    assert!(matches!(to("in"), Err(UnpackError::NeedsName(_))));
    to("in/new").unwrap();
    fs::set_permissions(dir.path().join("out/file"), fs::Permissions::from_mode(0o700)).unwrap();
    to("out/file").unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("in/new"), mode("out/file")), (0o644, 0o700));
    let mut out = Vec::new();
    unpack_into(&*bytes, &mut out).unwrap();
    assert_eq!(out, b"text");
}

#[test]
fn named_devices_are_written_to_and_pipes_are_not_replaced() {
    let mut bytes = Vec::new();
    pack_input(&b"text"[..], &mut bytes).unwrap();
    unpack(&*bytes, Path::new("/dev/null"), &mut Unpacked::default()).unwrap();
    let dir = dir();
    rustix::fs::mknodat(CWD, dir.path().join("in/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = unpacked(dir.path(), &[Item::File(entry("pipe")), Item::End]).unwrap_err();
    assert!(
        matches!(error, UnpackError::NotReplaced { .. }),
        "a pipe is kept unless the user named it: {error}"
    );
}

#[test]
fn a_hostile_stream_writes_nothing_outside_its_target() {
    let dir = dir();
    let out = dir.path().join("out").into_os_string().into_encoded_bytes();
    let up = b"../out".to_vec();
    let file = || Item::File(entry("file"));
    for items in [
        // Through a link to a directory or file that the stream creates.
        vec![
            Item::Directory(entry("a")),
            Item::Link(entry("l"), out.clone()),
            Item::Directory(entry("l")),
            file(),
            Item::Leave,
            Item::Leave,
            Item::End,
        ],
        vec![
            Item::Directory(entry("b")),
            Item::Link(entry("file"), [&out[..], b"/file"].concat()),
            file(),
            Item::Leave,
            Item::End,
        ],
        // Through names.
        vec![Item::File(entry("../out/file")), Item::End],
        vec![Item::Directory(entry("..")), Item::Directory(entry("out")), file(), Item::End],
        vec![Item::Directory(entry("/")), file(), Item::End],
        // By leaving more directories than it entered.
        vec![Item::Directory(entry("c")), Item::Leave, Item::Leave, Item::Directory(entry("out")), file()],
        // Through a link that already exists.
        vec![Item::Directory(entry("existing")), file(), Item::Leave, Item::End],
    ] {
        let _ = fs::remove_file(dir.path().join("in/existing"));
        symlink(OsStr::from_bytes(&up), dir.path().join("in/existing")).unwrap();
        let _ = unpacked(dir.path(), &items);
        assert_eq!(fs::read_to_string(dir.path().join("out/file")).unwrap(), "untouched", "{items:?}");
        assert_eq!(names(&dir.path().join("out")), ["file"], "{items:?}");
        assert_eq!(names(dir.path()), ["in", "out"]);
    }
    assert_eq!(fs::read_to_string(dir.path().join("in/b/file")).unwrap(), "word", "a link was not replaced");
}

#[test]
fn an_incomplete_file_does_not_replace_the_old_one() {
    let dir = dir();
    fs::write(dir.path().join("in/file"), "old").unwrap();
    let stream = pack_to_vec(&dir.path().join("out/file"));
    let to = dir.path().join("in");
    for length in 0..stream.len() - 1 {
        let cut = &stream[..length];
        let error = unpack(cut, &to, &mut Unpacked::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Stream(StreamError::Truncated)), "{length}: {error}");
        assert_eq!(names(&to), ["file"]);
    }
    fs::write(dir.path().join("in/file"), "old").unwrap();
    let mut broken = Vec::new();
    let mut writer = Writer::new(&mut broken).unwrap();
    writer.item(&Item::File(entry("file"))).unwrap();
    writer.data(b"new").unwrap();
    writer.end_file(false).unwrap();
    writer.item(&Item::End).unwrap();
    let mut done = Unpacked::default();
    unpack(&*broken, &to, &mut done).unwrap();
    assert_eq!(done, Unpacked { files: 0, broken: 1 });
    assert_eq!(fs::read_to_string(dir.path().join("in/file")).unwrap(), "old");
}

#[test]
fn packing_stops_at_the_depth_that_unpacking_accepts() {
    let dir = dir();
    let deep = dir.path().join("out").join("d/".repeat(MAX_DEPTH + 2));
    fs::create_dir_all(deep).unwrap();
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    let source = Source::open(&dir.path().join("out"), false).unwrap();
    let unreadable = pack(&source, &mut bytes, &mut |text| messages.push(text)).unwrap();
    assert_eq!((unreadable, messages.len()), (1, 1));
    assert!(messages[0].ends_with("directories are nested too deeply"), "{messages:?}");
    unpack(&*bytes, &dir.path().join("in"), &mut Unpacked::default()).unwrap();
}

#[test]
fn special_files_are_skipped_and_reported() {
    let dir = dir();
    let pipe = dir.path().join("out/pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(Source::open(&pipe, false).unwrap_err().to_string().contains("a named pipe"));
    let mut messages = Vec::new();
    let source = Source::open(&dir.path().join("out"), false).unwrap();
    assert_eq!(pack(&source, &mut Vec::new(), &mut |text| messages.push(text)).unwrap(), 0);
    assert!(messages[0].contains("pipe is a named pipe, and is not copied"), "{messages:?}");
}
