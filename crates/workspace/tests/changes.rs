//! Changes pulled from the guest, and changes sent again.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use banger_files::{FileRequest, PathWriter, Time};
use banger_workspace::{ChangeKind, Options, WorkspaceError, read_files};
use common::{OPTIONS, World, executable, git, git_output, tree, write};
use proptest::prelude::*;

/// Applies the guest's changes to a clean checkout of what was sent, and returns its files.
fn apply_patch(world: &World, patch: &[u8]) -> std::collections::BTreeMap<PathBuf, (char, Vec<u8>)> {
    let clean = world.path("clean");
    let _ = fs::remove_dir_all(&clean);
    git(&world.path("."), &["clone", "-q", world.host().to_str().unwrap(), "clean"]);
    fs::write(world.path("patch"), patch).unwrap();
    if !patch.is_empty() {
        git(&clean, &["apply", "--index", "--whitespace=nowarn", world.path("patch").to_str().unwrap()]);
    }
    git(&clean, &["fsck", "--strict"]);
    tree(&clean)
}

/// A repository with a few files, and its guest.
fn sent_world() -> (World, banger_workspace::Record) {
    let world = World::new();
    for name in ["a", "b", "c", "dir/d", "dir/e", "dir/sub/f"] {
        world.write(name, name.repeat(2000));
    }
    world.write(".gitignore", "*.o\ntarget/\n");
    world.commit_all("first");
    let record = world.send(&OPTIONS).unwrap();
    (world, record)
}

#[test]
fn the_patch_contains_all_work_and_the_guest_is_unchanged() {
    let (world, record) = sent_world();
    let guest = world.guest();
    write(&guest, "a", "edited and committed");
    write(&guest, "new \"file\"\n", "new");
    write(&guest, "binary", [0, 1, 2, 255].repeat(500));
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-q", "-m", "guest"]);
    fs::remove_file(guest.join("b")).unwrap();
    executable(&guest.join("c"));
    fs::rename(guest.join("dir/d"), guest.join("moved")).unwrap();
    fs::remove_file(guest.join("dir/e")).unwrap();
    symlink("c", guest.join("dir/e")).unwrap();
    write(&guest, "thing.o", "ignored");
    write(&guest, "target/debug/x", "ignored");
    write(&guest, "forced.o", "ignored, but tracked");
    git(&guest, &["add", "-f", "forced.o"]);
    write(&guest, "untracked/one", "one");
    let before = (fs::read(guest.join(".git/index")).unwrap(), git(&guest, &["for-each-ref"]));

    let changes = world.changes(&record).unwrap();
    assert!(changes.left_out.is_empty(), "{:?}", changes.left_out);
    let mut expected = tree(&guest);
    for ignored in ["thing.o", "target/debug/x"] {
        expected.remove(Path::new(ignored)).unwrap();
    }
    assert_eq!(apply_patch(&world, &changes.patch(None).unwrap()), expected);
    let listed: Vec<_> = changes
        .list(None)
        .unwrap()
        .into_iter()
        .map(|change| (change.change, change.path, change.old_path))
        .collect();
    assert!(listed.contains(&(ChangeKind::Renamed, "moved".into(), Some("dir/d".into()))), "{listed:?}");
    assert!(listed.contains(&(ChangeKind::TypeChanged, "dir/e".into(), None)), "{listed:?}");
    assert!(listed.contains(&(ChangeKind::Deleted, "b".into(), None)), "{listed:?}");
    assert_eq!(before, (fs::read(guest.join(".git/index")).unwrap(), git(&guest, &["for-each-ref"])));
    assert_eq!(git(&world.host(), &["status", "--porcelain"]), "");

    // A patch against a commit that the guest never received.
    world.write("b", "later");
    world.commit_all("later");
    let since = changes.patch(Some(git(&world.host(), &["rev-parse", "HEAD"]).trim())).unwrap();
    fs::write(world.path("since"), since).unwrap();
    git(&world.host(), &["apply", world.path("since").to_str().unwrap()]);
    assert_eq!(tree(&world.host()), expected);
}

#[test]
fn an_unchanged_guest_has_an_empty_patch() {
    let (world, record) = sent_world();
    let changes = world.changes(&record).unwrap();
    assert!(changes.patch(None).unwrap().is_empty());
    assert!(changes.list(None).unwrap().is_empty());
    // Refreshing the index is not a change either.
    fs::remove_file(world.guest().join(".git/index")).unwrap();
    git(&world.guest(), &["reset", "-q"]);
    assert!(world.changes(&record).unwrap().patch(None).unwrap().is_empty());
}

/// Files outside a sparse checkout are not deleted by their absence.
#[test]
fn a_sparse_checkout_has_no_deletions() {
    let (world, _) = sent_world();
    fs::remove_dir_all(world.guest()).unwrap();
    git(&world.host(), &["sparse-checkout", "set", "--no-cone", "/a", "/dir/sub/"]);
    assert!(!world.host().join("b").exists());
    let record = world.send(&OPTIONS).unwrap();
    assert_eq!(world.changes(&record).unwrap().list(None).unwrap(), []);
    fs::remove_file(world.guest().join("a")).unwrap();
    write(&world.guest(), "b", "appears in spite of the checkout");
    let changes = world.changes(&record).unwrap().list(None).unwrap();
    let paths: Vec<_> = changes.iter().map(|change| (change.change, change.path.as_str())).collect();
    assert_eq!(paths, [(ChangeKind::Deleted, "a"), (ChangeKind::Modified, "b")]);
}

#[test]
fn the_patch_includes_local_edits_that_were_sent() {
    let (world, _) = sent_world();
    fs::remove_dir_all(world.guest()).unwrap();
    world.write("a", "edited on the host");
    fs::remove_file(world.host().join("b")).unwrap();
    let record = world.send(&OPTIONS).unwrap();
    let changes = world.changes(&record).unwrap();
    assert_eq!(apply_patch(&world, &changes.patch(None).unwrap()), tree(&world.host()));
}

#[test]
fn the_patch_of_an_unborn_repository_contains_all_files() {
    let world = World::new();
    let record = world.send(&OPTIONS).unwrap();
    write(&world.guest(), "new/file", "new");
    let changes = world.changes(&record).unwrap();
    assert_eq!(apply_patch(&world, &changes.patch(None).unwrap()), tree(&world.guest()));
}

#[test]
fn a_hostile_guest_writes_nothing_and_runs_nothing() {
    let (world, record) = sent_world();
    let guest = world.guest();
    let ran = world.path("ran");
    let run = format!("touch {}", ran.display());
    for key in
        ["core.fsmonitor", "diff.external", "filter.evil.clean", "diff.evil.textconv", "core.sshCommand"]
    {
        git(&guest, &["config", key, &run]);
    }
    write(&guest, ".gitattributes", "* filter=evil diff=evil\n");
    write(&guest, "a", "changed");
    for name in ["dir/.GIT/hooks/x", "git~1/config", "dir/.git /config", ".git./config"] {
        write(&guest, name, "evil");
    }
    symlink("../../..", guest.join("dir/up")).unwrap();
    fs::remove_file(guest.join(".gitignore")).unwrap();
    symlink("/etc/passwd", guest.join(".gitignore")).unwrap();
    fs::write(guest.join(".git/index"), b"DIRC\0\0\0\x02\xff\xff\xff\xff").unwrap();
    fs::write(guest.join(".git/info/exclude"), vec![b'['; 100_000]).unwrap();
    fs::create_dir_all(guest.join("inner/.git")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        guest.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let before = tree(&world.host());
    let changes = world.changes(&record).unwrap();
    let patch = changes.patch(None).unwrap();
    assert!(!ran.exists());
    assert_eq!(tree(&world.host()), before);
    let mut left_out: Vec<_> =
        changes.left_out.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    left_out.sort();
    // Only what git cannot store is work that is left out.
    for file in &changes.left_out {
        let is_other = [&b"inner"[..], b"pipe"].contains(&file.path.as_slice());
        assert_eq!(file.is_work, !is_other, "{}", file.path.escape_ascii());
    }
    assert_eq!(
        left_out,
        [".git./config", "dir/.GIT/hooks/x", "dir/.git /config", "git~1/config", "inner", "pipe"]
    );
    let got = apply_patch(&world, &patch);
    assert_eq!(got.get(Path::new("a")).unwrap().1, b"changed");
    assert_eq!(got.get(Path::new("dir/up")).unwrap(), &('l', b"../../..".to_vec()));
}

#[test]
fn sending_again_transfers_only_changes() {
    let (world, record) = sent_world();
    let big = vec![7; 3_000_000];
    world.write("big", &big);
    world.commit_all("second");
    let (record, bytes) = world.send_again(record, &OPTIONS).unwrap();
    assert!(bytes > big.len());
    git(&world.guest(), &["fsck", "--strict"]);
    assert_eq!(git(&world.guest(), &["rev-parse", "HEAD"]), git(&world.host(), &["rev-parse", "HEAD"]));
    assert_eq!(git(&world.guest(), &["status", "--porcelain"]), "");

    let (record, bytes) = world.send_again(record, &OPTIONS).unwrap();
    assert_eq!(bytes, 0);

    // Every kind of change, on the host only.
    world.write("a", "edited");
    fs::remove_dir_all(world.host().join("dir/sub")).unwrap();
    fs::remove_file(world.host().join("b")).unwrap();
    world.write("b/now/a/directory", "x");
    fs::remove_file(world.host().join("dir/d")).unwrap();
    fs::remove_file(world.host().join("dir/e")).unwrap();
    fs::remove_dir(world.host().join("dir")).unwrap();
    symlink("a", world.host().join("dir")).unwrap();
    git(&world.host(), &["add", "-A"]);
    world.write("c", "edited after staging");
    let (record, bytes) = world.send_again(record, &OPTIONS).unwrap();
    assert!(bytes < 20_000, "{bytes}");
    assert_eq!(tree(&world.guest()), tree(&world.host()));
    let status = ["status", "--porcelain=v2", "-z"];
    assert_eq!(git(&world.guest(), &status), git(&world.host(), &status));
    git(&world.guest(), &["fsck", "--strict"]);

    // A commit of files that the guest already has.
    world.commit_all("third");
    let (record, bytes) = world.send_again(record, &OPTIONS).unwrap();
    assert!(bytes < 20_000, "{bytes}");
    assert_eq!(git(&world.guest(), &["log", "--format=%s"]), "third\nsecond\nfirst\n");
    git(&world.guest(), &["fsck", "--strict"]);

    // Then to an earlier branch.
    git(&world.host(), &["checkout", "-q", "-b", "back", "HEAD~2"]);
    world.send_again(record, &OPTIONS).unwrap();
    assert_eq!(tree(&world.guest()), tree(&world.host()));
    assert_eq!(git(&world.guest(), &["branch", "--show-current"]), "back\n");
    git(&world.guest(), &["fsck", "--strict"]);
}

#[test]
fn sending_again_never_overwrites_work_in_the_guest() {
    let conflicting_paths = |world: &World, record: &banger_workspace::Record| {
        let before = tree(&world.guest());
        let Err(WorkspaceError::Conflicts(paths)) = world.send_again(record.clone(), &OPTIONS) else {
            panic!("the changes were sent")
        };
        assert_eq!(tree(&world.guest()), before);
        paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
    };
    // The same file on both sides is a conflict; changes to different files are not.
    let (world, record) = sent_world();
    write(&world.guest(), "a", "guest");
    write(&world.guest(), "own", "guest");
    world.write("b", "host");
    let (record, _) = world.send_again(record, &OPTIONS).unwrap();
    assert_eq!(fs::read_to_string(world.guest().join("b")).unwrap(), "host");
    world.write("a", "host");
    assert_eq!(conflicting_paths(&world, &record), ["a"]);
    // A file removed here and edited there, and the reverse.
    let (world, record) = sent_world();
    fs::remove_file(world.host().join("a")).unwrap();
    write(&world.guest(), "a", "guest");
    world.write("b", "host");
    fs::remove_file(world.guest().join("b")).unwrap();
    assert_eq!(conflicting_paths(&world, &record), ["a", "b"]);
    // A directory with new files where a file is needed.
    let (world, record) = sent_world();
    fs::remove_dir_all(world.host().join("dir")).unwrap();
    world.write("dir", "a file now");
    git(&world.host(), &["add", "-A"]);
    write(&world.guest(), "dir/own", "guest");
    assert_eq!(conflicting_paths(&world, &record), ["dir/own"]);
    // Commits on both sides.
    let (world, record) = sent_world();
    write(&world.guest(), "own", "guest");
    git(&world.guest(), &["add", "-A"]);
    git(&world.guest(), &["commit", "-q", "-m", "guest"]);
    world.write("b", "host");
    world.send_again(record.clone(), &OPTIONS).unwrap();
    world.commit_all("host");
    assert_eq!(conflicting_paths(&world, &record), [".git/index", ".git/refs/heads/main"]);
}

#[test]
fn another_repository_is_rejected_and_a_moved_one_is_accepted() {
    let (world, _) = sent_world();
    fs::remove_dir_all(world.guest()).unwrap();
    let (first, other) = (world.path("host/first"), World::new());
    git(&world.path("host"), &["clone", "-q", "repo", "first"]);
    let record = world.send_all(world.snapshot_of(&first, &OPTIONS).unwrap()).unwrap();
    let again = |record| world.send_again(record, &OPTIONS).map(drop);
    assert!(
        matches!(again(record.clone()), Err(WorkspaceError::OtherRepository(root)) if root.ends_with("first"))
    );
    // The old path no longer exists, and this repository has its commits.
    fs::remove_dir_all(&first).unwrap();
    again(record.clone()).unwrap();
    fs::remove_dir_all(world.host()).unwrap();
    other.write("a", "of another");
    other.commit_all("another");
    fs::rename(other.host(), world.host()).unwrap();
    assert!(matches!(again(record), Err(WorkspaceError::OtherRepository(_))));
}

/// A step of a random session, for one file.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u8),
    Remove,
    Program,
    Link,
    Rename(u8),
    Stage,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Write),
        2 => Just(Step::Remove),
        1 => Just(Step::Program),
        1 => Just(Step::Link),
        2 => (0u8..16).prop_map(Step::Rename),
        1 => Just(Step::Stage),
        1 => Just(Step::Commit),
    ];
    prop::collection::vec((0u8..16, step), 1..14)
}

const NAMES: [&str; 16] = [
    "a",
    "b",
    "dir",
    "dir/c",
    "dir/d",
    "dir/sub/e",
    "-x",
    "a\nb",
    "\"q\"",
    "é",
    "Dir/c",
    "A",
    " s ",
    "x.log",
    "t/x.log",
    "dir/.gitignore",
];

fn apply_steps(root: &Path, steps: &[(u8, Step)]) {
    for (name, step) in steps {
        let name = NAMES[usize::from(*name)];
        let path = root.join(name);
        let clear_path = |path: &Path| {
            let mut dir = path.parent();
            while let Some(parent) = dir.filter(|parent| *parent != root) {
                if parent.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                    fs::remove_file(parent).unwrap();
                }
                dir = parent.parent();
            }
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                fs::remove_dir_all(path).unwrap();
            } else {
                let _ = fs::remove_file(path);
            }
        };
        match step {
            Step::Write(content) => {
                clear_path(&path);
                fs::write(&path, [*content, b'\n'].repeat(usize::from(*content) + 1)).unwrap();
            }
            Step::Remove => _ = fs::remove_file(&path),
            Step::Program if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) => executable(&path),
            Step::Program => {}
            Step::Link => {
                clear_path(&path);
                // A link to itself, but not where a directory may be needed later: `git apply` fails on such a loop.
                symlink(if name == "dir" { "nowhere" } else { name }, &path).unwrap();
            }
            Step::Rename(to) => {
                let to = root.join(NAMES[usize::from(*to)]);
                if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir())
                    && !to.starts_with(&path)
                    && to != path
                {
                    let content = fs::read(&path).unwrap_or_default();
                    fs::remove_file(&path).unwrap();
                    clear_path(&to);
                    fs::write(to, content).unwrap();
                }
            }
            Step::Stage => git(root, &["add", "-A"]).clear(),
            Step::Commit => {
                git(root, &["add", "-A"]);
                git(root, &["commit", "-q", "--allow-empty", "-m", "step"]);
            }
        }
    }
}

/// Returns the files of a tree that git would include: tracked ones, and those not ignored.
fn git_files(root: &Path) -> std::collections::BTreeMap<PathBuf, (char, Vec<u8>)> {
    let listed = git_output(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout;
    let listed: std::collections::BTreeSet<_> = listed.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut all = tree(root);
    all.retain(|path, _| listed.contains(path.as_os_str().as_encoded_bytes()));
    all
}

#[test]
fn only_requested_files_are_read_each_once_and_in_bounds() {
    type Out = PathWriter<Vec<u8>>;
    let write = |out: &mut Out, path: &[u8], size| {
        out.file(path, 0o644, Time::default(), &mut &*vec![7; size]).unwrap().unwrap();
    };
    let read = |fill: &dyn Fn(&mut Out)| {
        let mut out = Out::new(Vec::new()).unwrap();
        fill(&mut out);
        let request = [(&b"a"[..], 100), (b"dir/b", 0), (b"dir/c", 5)];
        let request = FileRequest::new(request.map(|(path, size)| (path.to_vec(), size)));
        read_files(&*out.finish().unwrap(), request)
    };
    // A file may have grown or disappeared since it was listed.
    let files = read(&|out| {
        write(out, b"dir/b", 10);
        write(out, b"a", 3);
    });
    assert_eq!(files.unwrap().keys().map(Vec::as_slice).collect::<Vec<_>>(), [&b"a"[..], b"dir/b"]);
    let is_malformed = |fill: &dyn Fn(&mut Out)| matches!(read(fill), Err(WorkspaceError::GuestData(_)));
    assert!(is_malformed(&|out| write(out, b"other", 1)));
    assert!(is_malformed(&|out| write(out, b"dir", 1)));
    assert!(is_malformed(&|out| out.link(b"dir/other", Time::default(), b"a".to_vec()).unwrap()));
    assert!(is_malformed(&|out| out.directory(b"other", 0o755).unwrap()));
    assert!(is_malformed(&|out| (0..2).for_each(|_| write(out, b"a", 1))));
    assert!(is_malformed(&|out| (0..9).for_each(|_| out.directory(b"dir", 0o755).unwrap())));
    let grown = read(&|out| write(out, b"dir/c", 65 << 20));
    assert!(matches!(&grown, Err(WorkspaceError::Grown(path)) if path == b"dir/c"), "{grown:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 15, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Random work on the host and in the guest, checked in a clean checkout.
    #[test]
    fn a_round_trip_loses_no_work(
        first in steps(),
        edits in steps(),
        guest_steps in steps(),
        later in steps(),
    ) {
        let world = World::new();
        world.write(".gitignore", "*.log\n");
        apply_steps(&world.host(), &first);
        world.commit_all("first");
        apply_steps(&world.host(), &edits);
        let options = Options { include_untracked: true, ..OPTIONS };
        let record = world.send(&options).unwrap();
        let status = ["status", "--porcelain=v2", "-z"];
        prop_assert_eq!(git(&world.guest(), &status), git(&world.host(), &status));
        git(&world.guest(), &["fsck", "--strict"]);
        prop_assert_eq!(git_files(&world.guest()), git_files(&world.host()));

        apply_steps(&world.host(), &later);
        let (record, _) = world.send_again(record, &options).unwrap();
        // Files removed there must be removed here; everything else is as on the host.
        prop_assert_eq!(git(&world.guest(), &status), git(&world.host(), &status));
        git(&world.guest(), &["fsck", "--strict"]);

        apply_steps(&world.guest(), &guest_steps);
        let changes = world.changes(&record).unwrap();
        let patch = changes.patch(None).unwrap();
        let base = record.commit().unwrap().to_owned();
        prop_assert_eq!(git(&world.host(), &["rev-parse", "HEAD"]), format!("{base}\n"));
        prop_assert_eq!(apply_patch(&world, &patch), git_files(&world.guest()));
    }
}
