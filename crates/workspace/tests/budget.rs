//! What a hostile guest can make the host store and keep in memory is limited, and the user's repository stays as it
//! is.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use banger_workspace::{Budget, GitError, GuestGit, Record, WorkspaceError};
use common::{OPTIONS, World, git, write};

fn sent_world() -> (World, Record) {
    let world = World::new();
    world.write("a", "a");
    world.commit_all("first");
    let record = world.send(&OPTIONS).unwrap();
    (world, record)
}

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// Returns the size of all files below `dir` in bytes, as far as they exist.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        meta => meta.map_or(0, |meta| meta.len()),
    };
    entries.map(size).sum()
}

/// Pulls, expects an error, and checks that the host's repository is unchanged.
fn rejected(world: &World, record: &mut Record, budget: &Budget, guest_git: &GuestGit) -> WorkspaceError {
    let state = || (git(&world.host(), &["for-each-ref"]), git(&world.host(), &["count-objects", "-v"]));
    let before = state();
    let error = world.pull_through(record, budget, guest_git).unwrap_err();
    assert_eq!(state(), before, "{error}");
    let rest = fs::read_dir(world.cache()).unwrap().count();
    assert_eq!(rest, 0, "temporary repositories are left");
    error
}

fn has_limit(error: &WorkspaceError, expected: &str) -> bool {
    matches!(error, WorkspaceError::TooLarge { limit, .. } if limit == expected)
}

#[test]
fn a_pack_is_limited_while_it_arrives() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    write(&guest, "large", noise(16 << 20));
    git(&guest, &["add", "large"]);
    git(&guest, &["commit", "-qm", "large"]);
    let budget = Budget { objects: 4 << 20, ..Budget::default() };
    let (done, cache) = (AtomicBool::new(false), world.cache());
    let used = thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(size(&cache));
            }
            most
        });
        let error = rejected(&world, &mut record, &budget, &world.guest_git());
        done.store(true, Ordering::Relaxed);
        assert!(has_limit(&error, "4 MiB"), "{error}");
        most.join().unwrap()
    });
    // Besides the pack there are small files.
    assert!(used < 5 << 20, "{used}");

    // Without a limit of its own, the file system's free space counts.
    let budget = Budget { reserve: u64::MAX, ..Budget::default() };
    let error = rejected(&world, &mut record, &budget, &world.guest_git());
    assert!(matches!(error, WorkspaceError::NoSpace { free: 0, .. }), "{error}");
    world.pull(&mut record).unwrap();
}

#[test]
fn an_object_that_needs_too_much_memory_is_rejected() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    // A commit, which git keeps in memory as a whole, and which is small in a pack.
    let head = git(&guest, &["cat-file", "commit", "HEAD"]);
    let mut bytes = head.into_bytes();
    bytes.resize(80 << 20, b'x');
    fs::write(world.path("commit"), &bytes).unwrap();
    let path = world.path("commit");
    let commit = git(&guest, &["hash-object", "-t", "commit", "-w", path.to_str().unwrap()]);
    fs::remove_file(path).unwrap();
    git(&guest, &["update-ref", "refs/heads/large", commit.trim()]);
    // The guest's git would need the memory too, so it sends an existing pack.
    let pack = Command::new("sh")
        .current_dir(&guest)
        .args(["-c", "git rev-parse refs/heads/large | git pack-objects --stdout -q > ../pack"])
        .status();
    assert!(pack.unwrap().success());
    let capabilities = "allow-tip-sha1-in-want allow-reachable-sha1-in-want object-format=sha1";
    let line = format!("{} HEAD\0{capabilities}\n", git(&guest, &["rev-parse", "HEAD"]).trim());
    let hello = world.path("guest/hello");
    fs::write(&hello, format!("{:04x}{line}0000", line.len() + 4)).unwrap();
    let GuestGit(mut words) = world.guest_git();
    words[2] = format!(
        r#"case "$*" in
            *upload-pack*) cd {}; cat hello; exec 3<&0; cat <&3 > /dev/null & printf '0008NAK\n'; cat pack; wait; exit ;;
        esac
        {}"#,
        world.path("guest").display(),
        words[2].to_str().unwrap()
    )
    .into();
    let budget = Budget { memory: 60 << 20, ..Budget::default() };
    let error = rejected(&world, &mut record, &budget, &GuestGit(words.clone()));
    let is_expected = |message: &str| message.contains("memory") && !message.contains("remote");
    assert!(
        matches!(&error, WorkspaceError::Git(GitError::Failed { stderr, .. }) if is_expected(stderr)),
        "{error}"
    );
    // Without the limit, only the connection to its parent is missing.
    world.pull_through(&mut record, &Budget::default(), &GuestGit(words)).unwrap();
}

#[test]
fn a_large_blob_needs_no_memory() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    git(&guest, &["config", "core.bigFileThreshold", "1m"]);
    write(&guest, "blob", vec![0; 80 << 20]);
    git(&guest, &["add", "blob"]);
    git(&guest, &["commit", "-qm", "large"]);
    git(&guest, &["rm", "-q", "blob"]);
    git(&guest, &["commit", "-qm", "small"]);
    let budget = Budget { memory: 60 << 20, ..Budget::default() };
    world.pull_through(&mut record, &budget, &world.guest_git()).unwrap();
}

#[test]
fn endless_answers_of_the_guests_git_are_cut_off() {
    let (world, mut record) = sent_world();
    git(&world.guest(), &["commit", "-q", "--allow-empty", "-m", "new"]);
    let id = "0123456789".repeat(4);
    let budget = Budget { git_output: 1 << 20, ..Budget::default() };
    let answers = |script: &str| GuestGit(["sh", "-c", script, "-"].map(Into::into).to_vec());
    for line in [format!("{id} refs/heads/x"), "x".repeat(5000), id.clone()] {
        let endless = answers(&format!("yes '{line}'"));
        let error = rejected(&world, &mut record, &budget, &endless);
        assert!(has_limit(&error, "1 MiB of text"), "{error}");
    }
    // Answers in another form.
    for line in ["refs/heads/x", "x refs/heads/x", &format!("{id} HEAD"), &format!("{} refs/x", &id[1..])] {
        let error = rejected(&world, &mut record, &budget, &answers(&format!("echo '{line}'")));
        assert!(matches!(error, WorkspaceError::Git(GitError::UnexpectedOutput { .. })), "{error}");
    }
    let error = rejected(&world, &mut record, &budget, &answers("exit 127"));
    assert!(matches!(error, WorkspaceError::NoGuestGit(_)), "{error}");
}

#[test]
fn the_numbers_of_refs_and_working_trees_are_limited() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    for number in 0..9 {
        git(&guest, &["tag", &format!("v{number}")]);
    }
    let budget = Budget { refs: 9, ..Budget::default() };
    let error = rejected(&world, &mut record, &budget, &world.guest_git());
    assert!(has_limit(&error, "9"), "{error}");
    git(&guest, &["worktree", "add", "-q", "../one"]);
    git(&guest, &["worktree", "add", "-q", "../two"]);
    let budget = Budget { worktrees: 1, ..Budget::default() };
    let error = rejected(&world, &mut record, &budget, &world.guest_git());
    assert!(has_limit(&error, "1"), "{error}");
    world.pull(&mut record).unwrap();
}

#[test]
fn changed_files_are_limited_before_they_are_fetched() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    // Without content on disk.
    let sparse = fs::File::create(guest.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let error = rejected(&world, &mut record, &Budget::default(), &world.guest_git());
    assert!(has_limit(&error, "16 GiB"), "{error}");
    sparse.set_len(9 << 20).unwrap();
    let budget = Budget { files: 8 << 20, ..Budget::default() };
    assert!(has_limit(&rejected(&world, &mut record, &budget, &world.guest_git()), "8 MiB"));
    let budget = Budget { reserve: u64::MAX, ..Budget::default() };
    let error = rejected(&world, &mut record, &budget, &world.guest_git());
    assert!(matches!(error, WorkspaceError::NoSpace { .. }), "{error}");
    world.pull(&mut record).unwrap();
}

/// Stores trees, each with the last one `width` times, and returns the id of the last of `depth`.
fn nested(guest: &Path, depth: usize, width: usize) -> String {
    let mut child = Command::new("git")
        .current_dir(guest)
        .args(["mktree", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut id = git(guest, &["rev-parse", "HEAD^{tree}"]);
    for _ in 0..depth {
        let entry = |number| format!("040000 tree {}\td{number}\n", id.trim());
        let entries: String = (0..width).map(entry).collect();
        stdin.write_all(format!("{entries}\n").as_bytes()).unwrap();
        id.clear();
        stdout.read_line(&mut id).unwrap();
    }
    drop(stdin);
    child.wait().unwrap();
    id.trim().to_owned()
}

#[test]
fn trees_that_are_nested_without_end_are_rejected() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let tree = nested(&guest, 20_000, 1);
    let commit = git(&guest, &["commit-tree", &tree, "-p", "HEAD", "-m", "deep"]);
    git(&guest, &["update-ref", "refs/heads/deep", commit.trim()]);
    let error = rejected(&world, &mut record, &Budget::default(), &world.guest_git());
    assert!(matches!(error, WorkspaceError::Git(_) | WorkspaceError::Incomplete(_)), "{error}");
}

#[test]
fn trees_that_name_files_without_end_are_rejected() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let tree = nested(&guest, 12, 10);
    let commit = git(&guest, &["commit-tree", &tree, "-p", "HEAD", "-m", "wide"]);
    git(&guest, &["worktree", "add", "-q", "--no-checkout", "--detach", "../other", commit.trim()]);
    let error = rejected(&world, &mut record, &Budget::default(), &world.guest_git());
    assert!(has_limit(&error, "256 MiB"), "{error}");
    // As the base of staged changes, of which the guest reports only one.
    fs::remove_file(world.path("guest/other/.git")).unwrap();
    fs::write(guest.join(".git/worktrees/other/index"), "").unwrap();
    let blob = git(&guest, &["rev-parse", "HEAD:a"]);
    let difference = format!(":000000 100644 {} {} A\\0a\\0", "0".repeat(40), blob.trim());
    let GuestGit(mut words) = world.guest_git();
    let script = words[2].to_str().unwrap();
    words[2] = format!("case \"$*\" in *diff-index*) printf '{difference}'; exit ;; esac\n{script}").into();
    let error = rejected(&world, &mut record, &Budget::default(), &GuestGit(words));
    assert!(has_limit(&error, "256 MiB"), "{error}");
}
