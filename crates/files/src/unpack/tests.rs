use std::{
    io::Seek,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, symlink},
    },
};

use proptest::prelude::*;
use rustix::fs::CWD;

use super::*;
use crate::{Source, Writer, pack, pack_input, reserve::Usage, stream::MAX_DEPTH};

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

/// Encodes these items, each file with the content `word`.
fn encoded(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    for item in items {
        writer.item(item).unwrap();
        if let Item::File(_) = item {
            writer.data(b"word").unwrap();
            writer.end_file(true).unwrap();
        }
    }
    bytes
}

/// Unpacks these items into `in`, from a trusted sender.
fn unpacked(dir: &Path, items: &[Item]) -> Result<Unpacked, UnpackError> {
    let mut done = Unpacked::default();
    unpack(&*encoded(items), &dir.join("in"), &mut done).map(|()| done)
}

/// Unpacks these items as the answer to a request for `source`, to `target`.
fn requested(source: &str, target: &Path, items: &[Item]) -> Result<(), UnpackError> {
    let request = CopyRequest::new(Path::new(source), false);
    unpack_requested(&*encoded(items), &request, target, &mut Unpacked::default())
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
    let mut out = tempfile::tempfile().unwrap();
    unpack_into(&*bytes, &mut out).unwrap();
    out.rewind().unwrap();
    assert_eq!(io::read_to_string(out).unwrap(), "text");
}

#[test]
fn a_new_directory_for_the_content_of_another_gets_its_permissions() {
    let dir = dir();
    fs::set_permissions(dir.path().join("out"), fs::Permissions::from_mode(0o750)).unwrap();
    copied(&dir.path().join("out/."), &dir.path().join("in/new")).unwrap();
    assert_eq!(fs::metadata(dir.path().join("in/new")).unwrap().mode() & 0o7777, 0o750);
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
        for trusted in [true, false] {
            let _ = if trusted {
                unpacked(dir.path(), &items).map(drop)
            } else {
                requested(".", &dir.path().join("in"), &items)
            };
            assert_eq!(fs::read_to_string(dir.path().join("out/file")).unwrap(), "untouched", "{items:?}");
            assert_eq!(names(&dir.path().join("out")), ["file"], "{items:?}");
            assert_eq!(names(dir.path()), ["in", "out"]);
        }
    }
    assert_eq!(fs::read_to_string(dir.path().join("in/b/file")).unwrap(), "word", "a link was not replaced");
}

#[test]
fn the_request_names_the_copy_and_not_the_stream() {
    let directory = [Item::Directory(entry(".ssh")), Item::File(entry("keys")), Item::Leave, Item::End];
    let link = [Item::Link(entry(".profile"), b"../out/file".to_vec()), Item::End];
    for items in [&[Item::File(entry(".bashrc")), Item::End][..], &directory, &link] {
        let dir = dir();
        let home = dir.path().join("in");
        fs::create_dir(home.join(".ssh")).unwrap();
        fs::write(home.join(".bashrc"), "mine").unwrap();
        // Into a directory, then to a new name, which the stream's name does not change either.
        requested("/srv/report.txt", &home, items).unwrap();
        requested("/srv/report.txt", &home.join("new"), items).unwrap();
        assert_eq!(names(&home), [".bashrc", ".ssh", "new", "report.txt"], "{items:?}");
        assert_eq!(fs::read_to_string(home.join(".bashrc")).unwrap(), "mine");
        assert!(names(&home.join(".ssh")).is_empty());
    }
}

#[test]
fn a_link_at_the_target_is_replaced_and_not_followed() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    let file = [Item::File(entry("x")), Item::End];
    // The first copy brings a link; the next one, of the same name, must not go through it.
    for target in ["../out/file", "../out/new", "nowhere/at all", "/dev/null", "notes"] {
        requested("notes", &at("in"), &[Item::Link(entry("x"), target.into()), Item::End]).unwrap();
        for to in ["in", "in/notes"] {
            requested("notes", &at(to), &file).unwrap();
            assert!(fs::symlink_metadata(at("in/notes")).unwrap().is_file(), "{target}");
            fs::remove_file(at("in/notes")).unwrap();
            symlink(target, at("in/notes")).unwrap();
        }
        let error = requested("x", &at("in/notes"), &[Item::Directory(entry("x")), Item::Leave, Item::End]);
        assert!(matches!(error, Err(UnpackError::NotADirectory(_))), "{error:?}");
        // A link takes the place of a link.
        requested("x", &at("in/notes"), &[Item::Link(entry("x"), b"again".to_vec()), Item::End]).unwrap();
        assert_eq!(fs::read_link(at("in/notes")).unwrap(), Path::new("again"));
    }
    assert_eq!(names(&at("out")), ["file"]);
    assert_eq!(fs::read_to_string(at("out/file")).unwrap(), "untouched");
}

#[test]
fn a_link_to_a_directory_is_followed_only_if_the_target_ends_in_a_slash() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    symlink("../out", at("in/link")).unwrap();
    let tree = [Item::Directory(entry("x")), Item::File(entry("y")), Item::Leave, Item::End];
    for items in [&[Item::File(entry("x")), Item::End][..], &tree] {
        for source in ["x", "x/."] {
            let error = requested(source, &at("in/link"), items).unwrap_err();
            let expected = matches!(error, UnpackError::LinkToDirectory(_) | UnpackError::OtherKind { .. });
            assert!(expected, "{error}");
        }
        assert_eq!(names(&at("out")), ["file"]);
    }
    // In the middle of a path, the user has typed the link.
    requested("x", &at("in/link/x"), &[Item::File(entry("x")), Item::End]).unwrap();
    requested("y/.", &at("in/link/"), &tree).unwrap();
    assert_eq!(names(&at("out")), ["file", "x", "y"]);
}

#[test]
fn another_kind_than_requested_is_rejected() {
    let dir = dir();
    let target = dir.path().join("in");
    let file = [Item::File(entry("")), Item::End];
    let link = [Item::Link(entry(""), b"/".to_vec()), Item::End];
    for source in ["a/", "a/.", ".", "..", "/", "~/"] {
        for items in [&file, &link] {
            let error = requested(source, &target, items).unwrap_err();
            assert!(matches!(error, UnpackError::OtherKind { requested: "a directory", .. }), "{error}");
        }
    }
    let follow = CopyRequest::new(Path::new("a"), true);
    let error = unpack_requested(&*encoded(&link), &follow, &target, &mut Unpacked::default()).unwrap_err();
    assert_eq!(error.to_string(), "received a symbolic link in place of the target of a symbolic link");
    assert!(names(&target).is_empty());
}

#[test]
fn links_of_the_kernel_to_open_files_are_written_to() {
    let dir = dir();
    let file = File::create(dir.path().join("in/file")).unwrap();
    let target = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
    requested("a", &target, &[Item::File(entry("x")), Item::End]).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("in/file")).unwrap(), "word");
    let error = requested("a", &target, &[Item::Link(entry("x"), b"/".to_vec()), Item::End]);
    assert!(error.is_err());
    requested("a", Path::new("/dev/null"), &[Item::File(entry("x")), Item::End]).unwrap();
}

#[test]
fn names_that_occur_twice_never_lead_through_a_link() {
    let out = || b"../../out".to_vec();
    let (dir_item, file) = (|| Item::Directory(entry("a")), || Item::File(entry("a")));
    let link = || Item::Link(entry("a"), out());
    let within = || Item::File(entry("file"));
    for (items, fails) in [
        (vec![file(), dir_item(), within(), Item::Leave], true),
        (vec![link(), dir_item(), within(), Item::Leave], true),
        (vec![dir_item(), Item::Leave, link()], true),
        (vec![dir_item(), Item::Leave, file()], true),
        (vec![link(), file(), link(), file()], false),
    ] {
        let dir = dir();
        let items = [vec![Item::Directory(entry("t"))], items, vec![Item::Leave, Item::End]].concat();
        let result = requested("t", &dir.path().join("in"), &items);
        assert_eq!(result.is_err(), fails, "{items:?}");
        assert_eq!(fs::read_to_string(dir.path().join("out/file")).unwrap(), "untouched");
        assert_eq!(names(&dir.path().join("out")), ["file"]);
    }
}

#[test]
fn unpacking_stops_before_the_file_system_is_full() {
    let dir = dir();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    writer.item(&Item::Directory(entry(""))).unwrap();
    for name in ["small", "large"] {
        writer.item(&Item::File(entry(name))).unwrap();
        let size = if name == "small" { 1 << 20 } else { 20 << 20 };
        writer.data(&vec![0; size]).unwrap();
        writer.end_file(true).unwrap();
    }
    let target = dir.path().join("in");
    let mut reader = Reader::new(&*bytes).unwrap();
    reader.next_item().unwrap();
    let fd = || OwnedFd::from(File::open(&target).unwrap());
    let mut done = Unpacked::default();
    let unpacker = Unpacker::new(fd(), target.clone(), UnpackMode::Copy, &mut done);
    let reserve = Some(Reserve::new(fd(), |_| Ok(Usage::full())).unwrap());
    let error = Unpacker { reserve, ..unpacker }.rest(&mut reader).unwrap_err();
    assert!(matches!(&error, UnpackError::Reserved { path, .. } if path.ends_with("large")), "{error}");
    assert_eq!(names(&target), ["small"], "the part of the large file is removed");
    assert_eq!(done.files, 1);
}

/// A name for a hostile stream: of the user's files, of earlier copies, and invalid ones.
fn any_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        20 => prop::sample::select(vec!["a", "b", "notes", "file", ".bashrc", ".ssh"]),
        1 => prop::sample::select(vec!["", ".", "..", "../out", "a/b", "/", "\0"]),
    ]
}

fn any_item() -> impl Strategy<Value = Item> {
    let link_target =
        prop::sample::select(vec!["../out", "../out/file", "../.bashrc", "..", ".", "/dev/null"]);
    prop_oneof![
        20 => any_name().prop_map(|name| Item::Directory(entry(name))),
        20 => any_name().prop_map(|name| Item::File(entry(name))),
        20 => (any_name(), link_target).prop_map(|(name, to)| Item::Link(entry(name), to.into())),
        1 => any_name().prop_map(|name| Item::Remove(name.into())),
        10 => Just(Item::Leave),
    ]
}

/// Ends a stream after its first top-level item, and leaves all directories.
fn well_formed(items: Vec<Item>) -> Vec<Item> {
    let (mut all, mut depth) = (Vec::new(), 0);
    for item in items {
        match item {
            Item::Leave if depth == 0 => continue,
            Item::Leave => depth -= 1,
            Item::Directory(_) => depth += 1,
            _ => {}
        }
        all.push(item);
        if depth == 0 {
            break;
        }
    }
    all.extend(vec![Item::Leave; depth]);
    all.push(Item::End);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A user copies several times into the same directory. Each copy changes only the requested name, or only the
    /// content of the target for a path that ends in `.`.
    #[test]
    fn hostile_copies_change_only_what_was_requested(
        copies in prop::collection::vec(
            (
                prop_oneof![
                    3 => Just("x/notes"),
                    2 => prop::sample::select(vec!["x/notes/", "-L notes", "notes/.", "..", "/"]),
                ],
                prop_oneof![
                    3 => Just("in/notes"),
                    2 => prop::sample::select(vec!["in", "in/notes/", "in/new", "in/copies"]),
                ],
                prop::collection::vec(any_item(), 0..8),
            ),
            1..5,
        ),
    ) {
        let dir = dir();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("in/.ssh")).unwrap();
        fs::create_dir_all(at("in/copies")).unwrap();
        fs::write(at("in/.bashrc"), "mine").unwrap();
        for (source, target, items) in copies {
            let (source, follow) = source.strip_prefix("-L ").map_or((source, false), |path| (path, true));
            let request = CopyRequest::new(Path::new(source), follow);
            if target == "in" && request.name().is_empty() {
                // The user wants all of it there.
                continue;
            }
            let is_through_link = target.ends_with('/') && at("in/notes").is_symlink();
            if is_through_link {
                continue;
            }
            let stream = encoded(&well_formed(items));
            let _ = unpack_requested(&*stream, &request, &at(target), &mut Unpacked::default());
            let known = [".bashrc", ".ssh", "copies", "new", "notes"];
            prop_assert!(names(&at("in")).iter().all(|name| known.contains(&name.as_str())), "{:?}", names(&at("in")));
            prop_assert_eq!(fs::read_to_string(at("in/.bashrc")).unwrap(), "mine");
            prop_assert!(names(&at("in/.ssh")).is_empty());
            prop_assert_eq!(names(&at("out")), ["file"]);
            prop_assert_eq!(fs::read_to_string(at("out/file")).unwrap(), "untouched");
            prop_assert_eq!(names(dir.path()), ["in", "out"]);
        }
    }
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
