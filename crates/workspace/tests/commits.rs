//! Commits of a guest, pulled into the host's repository beside the user's own.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{OPTIONS, World, git, git_output, tree, write};

fn sent_world() -> (World, banger_workspace::Record) {
    let world = World::new();
    for number in 0..14 {
        world.write("a", format!("a {number}"));
        world.commit_all(&format!("commit {number}"));
    }
    world.write("local", "a local edit");
    let record = world.send(&OPTIONS).unwrap();
    (world, record)
}

/// Returns everything that belongs to the user.
fn user_state(world: &World) -> impl PartialEq + std::fmt::Debug + use<> {
    let refs = git(&world.host(), &["for-each-ref", "refs/heads", "refs/tags", "refs/remotes", "refs/stash"]);
    (
        refs,
        tree(&world.host()),
        fs::read(world.host().join(".git/index")).unwrap(),
        git(&world.host(), &["status"]),
    )
}

#[test]
fn a_pull_adds_commits_and_uncommitted_work_and_changes_nothing_else() {
    let (world, mut record) = sent_world();
    let before = user_state(&world);
    let guest = world.guest();
    write(&guest, "a", "guest");
    git(&guest, &["commit", "-qam", "in the guest"]);
    git(&guest, &["checkout", "-q", "-b", "other/branch"]);
    write(&guest, "b", "guest");
    git(&guest, &["add", "b"]);
    git(&guest, &["commit", "-qm", "on another branch"]);
    write(&guest, "c", "not committed");
    let pulled = world.pull(&mut record).unwrap();
    assert!(pulled.uncommitted);
    let names: Vec<_> = pulled.refs.iter().map(|(name, _)| name.as_str()).collect();
    let prefix = "refs/banger/box/";
    assert_eq!(
        names,
        ["HEAD", "heads/main", "heads/other/branch", "uncommitted"].map(|name| format!("{prefix}{name}"))
    );
    assert_eq!(user_state(&world), before);
    let log = |name: &str| git(&world.host(), &["log", "--format=%s", &format!("main..{prefix}{name}")]);
    assert_eq!(log("heads/main"), "in the guest\n");
    assert_eq!(log("HEAD"), "on another branch\nin the guest\n");
    assert_eq!(log("uncommitted"), "Uncommitted work in VM box\non another branch\nin the guest\n");
    let show = |name: &str| git(&world.host(), &["show", &format!("{prefix}{name}")]);
    assert_eq!(show("uncommitted:c"), "not committed");
    git(&world.host(), &["fsck", "--strict"]);

    // Work that was pulled once survives when the guest rewrites its history.
    git(&guest, &["add", "-A"]);
    git(&guest, &["commit", "-q", "--amend", "-m", "amended"]);
    let again = world.pull(&mut record).unwrap();
    assert!(!again.uncommitted);
    assert!(
        !git_output(&world.host(), &["rev-parse", "--verify", "-q", "refs/banger/box/uncommitted"])
            .status
            .success()
    );
    assert_eq!(git(&world.host(), &["rev-parse", "refs/banger/box/HEAD@{1}"]), {
        let head = pulled.refs.iter().find(|(name, _)| name.ends_with("/HEAD")).unwrap();
        format!("{}\n", head.1)
    });
    assert_eq!(user_state(&world), before);
}

#[test]
fn uncommitted_edits_are_pulled_without_the_guests_git() {
    let (world, mut record) = sent_world();
    write(&world.guest(), "a", "edited");
    let pulled = world.pull(&mut record).unwrap();
    assert!(pulled.uncommitted);
    assert_eq!(git(&world.host(), &["show", "refs/banger/box/uncommitted:a"]), "edited");
    assert_eq!(
        git(&world.host(), &["rev-parse", "refs/banger/box/HEAD"]),
        git(&world.host(), &["rev-parse", "main"])
    );
}

#[test]
fn a_detached_head_and_a_first_commit_are_pulled() {
    let (world, mut record) = sent_world();
    git(&world.guest(), &["checkout", "-q", "--detach"]);
    git(&world.guest(), &["commit", "-q", "--allow-empty", "-m", "detached"]);
    world.pull(&mut record).unwrap();
    assert_eq!(git(&world.host(), &["log", "-1", "--format=%s", "refs/banger/box/HEAD"]), "detached\n");

    let world = World::new();
    let mut record = world.send(&OPTIONS).unwrap();
    write(&world.guest(), "a", "first");
    git(&world.guest(), &["add", "a"]);
    git(&world.guest(), &["commit", "-qm", "first"]);
    world.pull(&mut record).unwrap();
    assert_eq!(git(&world.host(), &["log", "--format=%s", "refs/banger/box/heads/main"]), "first\n");
}

#[test]
fn a_push_adds_host_commits_and_keeps_work_in_the_guest() {
    let (world, record) = sent_world();
    assert!(world.push(record.clone()).unwrap().is_none());
    write(&world.guest(), "a", "guest");
    git(&world.guest(), &["commit", "-qam", "guest"]);
    let before = (tree(&world.guest()), git(&world.guest(), &["rev-parse", "HEAD"]));
    world.write("b", "host");
    world.commit_all("host");
    let mut record = world.push(record).unwrap().unwrap();
    assert_eq!((tree(&world.guest()), git(&world.guest(), &["rev-parse", "HEAD"])), before);
    assert_eq!(git(&world.guest(), &["log", "-1", "--format=%s", "host/main"]), "host\n");
    git(&world.guest(), &["merge", "-q", "--no-edit", "host/main"]);
    git(&world.guest(), &["fsck", "--strict"]);
    assert!(world.push(record.clone()).unwrap().is_none());
    // Pull again, including the commits that came from here.
    let pulled = world.pull(&mut record).unwrap();
    assert_eq!(
        git(&world.host(), &["log", "--format=%s", "main..refs/banger/box/HEAD"]),
        "Merge remote-tracking branch 'host/main'\nguest\n"
    );
    assert!(!pulled.uncommitted);
}

/// A VM that reuses a deleted one's name takes over its refs. Their old commits are kept.
#[test]
fn commits_of_an_earlier_vm_with_the_same_name_are_kept() {
    let (world, mut record) = sent_world();
    let fresh = record.clone();
    let guest = world.guest();
    let base = git(&guest, &["rev-parse", "HEAD"]);
    git(&guest, &["branch", "topic"]);
    git(&guest, &["commit", "-q", "--allow-empty", "-m", "of the first"]);
    write(&guest, "a", "not committed");
    assert!(world.pull(&mut record).unwrap().replaced.is_empty());
    git(&guest, &["checkout", "-q", "topic"]);
    git(&guest, &["commit", "-q", "--allow-empty", "-m", "topic of the first"]);
    assert!(world.pull(&mut record).unwrap().replaced.is_empty());
    let log = |name: &str| git(&world.host(), &["log", "-1", "--format=%s", name]);
    // The uncommitted work contains the topic's commit.
    let replaced_refs = ["heads/main", "uncommitted"].map(|name| {
        let id = git(&world.host(), &["rev-parse", &format!("refs/banger/box/{name}")]);
        format!("refs/banger/box/replaced/{}", &id[..12])
    });

    // Another VM without the first one's record, with a branch below the name of an old one.
    git(&guest, &["checkout", "-q", "-f", "main"]);
    git(&guest, &["reset", "-q", "--hard", base.trim()]);
    git(&guest, &["branch", "-q", "-D", "topic"]);
    git(&guest, &["checkout", "-q", "-b", "topic/deep"]);
    git(&guest, &["commit", "-q", "--allow-empty", "-m", "of the second"]);
    git(&guest, &["reflog", "expire", "--expire=now", "--all"]);
    fs::remove_file(guest.join(".git/ORIG_HEAD")).unwrap();
    let mut record = fresh;
    let replaced = world.pull(&mut record).unwrap().replaced;
    assert_eq!(replaced, replaced_refs.iter().cloned().collect());
    assert_eq!(log("refs/banger/box/heads/topic/deep"), "of the second\n");
    assert_eq!(
        replaced_refs.each_ref().map(|name| log(name)),
        ["of the first\n", "Uncommitted work in VM box\n"]
    );
    // Only once: the refs now belong to this VM.
    assert!(world.pull(&mut record).unwrap().replaced.is_empty());
    // A branch deleted in the same VM leaves its commits too.
    git(&guest, &["checkout", "-q", "--detach", base.trim()]);
    git(&guest, &["branch", "-q", "-D", "topic/deep"]);
    git(&guest, &["reflog", "expire", "--expire=now", "--all"]);
    assert_eq!(world.pull(&mut record).unwrap().replaced.len(), 1);
    git(&world.host(), &["fsck", "--strict"]);
}

/// A commit that git itself would not check out is rejected.
#[test]
fn hostile_objects_are_rejected() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    write(&guest, "x", "x");
    let blob = git(&guest, &["hash-object", "-w", "x"]);
    fs::write(world.path("tree"), format!("100644 blob {}\t.git\n", blob.trim())).unwrap();
    let tree = std::process::Command::new("git")
        .current_dir(&guest)
        .args(["mktree"])
        .stdin(fs::File::open(world.path("tree")).unwrap())
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    let commit = git(&guest, &["commit-tree", tree.trim(), "-p", "HEAD", "-m", "evil"]);
    git(&guest, &["update-ref", "refs/heads/evil", commit.trim()]);
    let error = world.pull(&mut record).unwrap_err();
    assert!(error.to_string().contains(".git"), "{error}");
    assert!(!git_output(&world.host(), &["cat-file", "-e", commit.trim()]).status.success());
    assert_eq!(git(&world.host(), &["for-each-ref", "refs/banger"]), "");
}
