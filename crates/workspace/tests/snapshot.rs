//! Sending repositories of every kind, compared by git before and after.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, os::unix::fs::symlink};

use banger_workspace::{Git, GitError, Mode, Options, Repository, Upload, WorkspaceError};
use common::{OPTIONS, World, executable, git, git_output, run_with_git, tree, write};

const STATUS: &[&str] = &["status", "--porcelain=v2", "-z", "--untracked-files=no"];

/// Checks that the guest's repository is intact, and has the same status as the host's.
fn assert_guest_matches_host(world: &World) {
    git(&world.guest(), &["fsck", "--strict"]);
    assert_eq!(git(&world.guest(), STATUS), git(&world.host(), STATUS));
    let head = |dir| String::from_utf8(git_output(dir, &["rev-parse", "HEAD"]).stdout).unwrap();
    assert_eq!(head(&world.guest()), head(&world.host()));
    assert_eq!(
        git_output(&world.guest(), &["symbolic-ref", "HEAD"]).stdout,
        git_output(&world.host(), &["symbolic-ref", "HEAD"]).stdout
    );
}

/// A repository with files of every kind, and changes of every kind.
fn varied() -> World {
    let world = World::new();
    for name in ["plain", "edited", "staged", "both", "deleted", "unstaged-delete", "becomes-link", "mode"] {
        world.write(name, name);
    }
    world.write("dir/sub/deep", "deep");
    world.write("program", "#!/bin/sh\n");
    executable(&world.host().join("program"));
    symlink("plain", world.host().join("link")).unwrap();
    symlink("loop", world.host().join("loop")).unwrap();
    symlink("/nowhere/at/all", world.host().join("dangling")).unwrap();
    for name in ["-dash", "a\nb", "q\"uo'te", " space ", "\\back", "Case", "case", &"n".repeat(255), "ü"] {
        world.write(name, name);
    }
    {
        use std::os::unix::ffi::OsStrExt;
        let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        fs::write(world.host().join(odd), "odd").unwrap();
    }
    world.write(".gitignore", "ignored\n*.log\n");
    world.write("ignored", "never");
    for number in 0..15 {
        world.write("plain", format!("plain {number}"));
        world.commit_all(&format!("commit {number}"));
    }
    world.write("edited", "edited on disk");
    world.write("staged", "staged");
    world.write("both", "staged once");
    git(&world.host(), &["add", "staged", "both"]);
    world.write("both", "edited after staging");
    git(&world.host(), &["rm", "-q", "deleted"]);
    fs::remove_file(world.host().join("unstaged-delete")).unwrap();
    fs::remove_file(world.host().join("becomes-link")).unwrap();
    symlink("plain", world.host().join("becomes-link")).unwrap();
    executable(&world.host().join("mode"));
    world.write("new-staged", "new");
    git(&world.host(), &["add", "new-staged"]);
    world.write("announced", "announced");
    git(&world.host(), &["add", "-N", "announced"]);
    world.write("untracked", "untracked");
    world.write("more/untracked", "untracked");
    world
}

/// Like `varied`, with all tracked files as committed.
fn varied_and_committed() -> World {
    let world = varied();
    git(&world.host(), &["reset", "-q", "--hard"]);
    world
}

#[test]
fn every_kind_of_change_is_sent() {
    let world = varied();
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);
    let mut expected = tree(&world.host());
    for left_out in ["ignored", "untracked", "more/untracked"] {
        expected.remove(std::path::Path::new(left_out)).unwrap();
    }
    assert_eq!(tree(&world.guest()), expected);
    assert_eq!(git(&world.guest(), &["rev-list", "--count", "HEAD"]).trim(), "10");
    assert_eq!(world.snapshot(&OPTIONS).unwrap().left_out(), 2);
    // Commits in the guest have the host's author, and are unsigned.
    assert_eq!(git(&world.guest(), &["config", "user.email"]).trim(), "author@example.com");
}

#[test]
fn untracked_files_are_sent_on_request_and_ignored_ones_never() {
    let world = varied();
    world.send(&Options { include_untracked: true, ..OPTIONS }).unwrap();
    let mut expected = tree(&world.host());
    expected.remove(std::path::Path::new("ignored")).unwrap();
    assert_eq!(tree(&world.guest()), expected);
    let all = ["status", "--porcelain=v2", "-z"];
    assert_eq!(git(&world.guest(), &all), git(&world.host(), &all));
}

#[test]
fn unborn_branches_and_detached_heads_are_sent() {
    let world = World::new();
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);

    let world = World::new();
    world.write("a", "a");
    git(&world.host(), &["add", "a"]);
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);
    assert_eq!(fs::read_to_string(world.guest().join("a")).unwrap(), "a");

    let world = varied_and_committed();
    git(&world.host(), &["checkout", "-q", "--detach", "HEAD~2"]);
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);
}

#[test]
fn worktrees_sparse_checkouts_shallow_clones_and_split_indexes_are_sent() {
    // A separate working tree.
    let world = varied_and_committed();
    git(&world.host(), &["worktree", "add", "-q", "-b", "side", "../side"]);
    write(&world.path("host/side"), "edited", "in the working tree");
    let side = Repository::find(&Git::find().unwrap(), &world.path("host/side/dir")).unwrap();
    assert_eq!(
        (side.branch(), side.root()),
        (Some("side"), fs::canonicalize(world.path("host/side")).unwrap().as_path())
    );
    let snapshot = banger_workspace::Snapshot::take(side, &OPTIONS, &world.cache()).unwrap();
    let mut stream = Vec::new();
    Upload::full(snapshot, b"/r").write(&mut stream).unwrap();
    banger_files::place(&*stream, &world.guest(), &mut Default::default()).unwrap();
    assert_eq!(git(&world.guest(), STATUS), git(&world.path("host/side"), STATUS));
    assert_eq!(git(&world.guest(), &["branch", "--show-current"]).trim(), "side");

    // A sparse checkout, also with a sparse index.
    for sparse_index in ["false", "true"] {
        let world = varied_and_committed();
        git(&world.host(), &["config", "index.sparse", sparse_index]);
        git(&world.host(), &["sparse-checkout", "init", "--cone"]);
        git(&world.host(), &["sparse-checkout", "set", "more"]);
        assert!(!world.host().join("dir").exists());
        world.send(&OPTIONS).unwrap();
        assert_guest_matches_host(&world);
        assert!(!world.guest().join("dir").exists());
        git(&world.guest(), &["sparse-checkout", "disable"]);
        assert_eq!(fs::read_to_string(world.guest().join("dir/sub/deep")).unwrap(), "deep");
    }

    // A shallow clone.
    let world = varied_and_committed();
    fs::rename(world.host(), world.path("host/full")).unwrap();
    let url = format!("file://{}", world.path("host/full").display());
    git(&world.path("host"), &["clone", "-q", "--depth", "3", &url, "repo"]);
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);
    assert_eq!(git(&world.guest(), &["rev-list", "--count", "HEAD"]).trim(), "3");
    // The branch follows the same upstream as here.
    assert_eq!(git(&world.guest(), &["config", "remote.origin.url"]).trim(), url);
    assert_eq!(
        git(&world.guest(), &["rev-parse", "@{upstream}"]),
        git(&world.host(), &["rev-parse", "@{upstream}"])
    );

    let world = varied();
    git(&world.host(), &["update-index", "--split-index"]);
    world.send(&OPTIONS).unwrap();
    assert_guest_matches_host(&world);
}

#[test]
fn a_merge_in_progress_is_sent_and_can_be_concluded_on_both_sides() {
    let world = World::new();
    world.write("a", "one\n");
    world.commit_all("one");
    git(&world.host(), &["checkout", "-q", "-b", "side"]);
    world.write("a", "side\n");
    world.commit_all("side");
    git(&world.host(), &["checkout", "-q", "main"]);
    world.write("a", "main\n");
    world.commit_all("main");
    assert!(!git_output(&world.host(), &["merge", "side"]).status.success());
    let record = world.send(&Options { depth: 1, ..OPTIONS }).unwrap();
    assert_guest_matches_host(&world);
    assert_eq!(git(&world.guest(), &["ls-files", "-u"]), git(&world.host(), &["ls-files", "-u"]));
    assert_eq!(git(&world.guest(), &["rev-list", "--count", "HEAD"]).trim(), "1");
    assert_eq!(git(&world.guest(), &["status"]), git(&world.host(), &["status"]));

    // Concluding the merge there creates a commit with both parents.
    let conclude_merge = |root: &std::path::Path| {
        write(root, "a", "both\n");
        git(root, &["commit", "-qam", "both"]);
        git(root, &["rev-parse", "HEAD^1", "HEAD^2"])
    };
    let kept = world.path("kept");
    assert!(
        std::process::Command::new("cp").arg("-a").arg(world.guest()).arg(&kept).status().unwrap().success()
    );
    assert_eq!(conclude_merge(&kept), git(&world.host(), &["rev-parse", "main", "side"]));
    git(&kept, &["fsck", "--strict"]);

    // Once it is concluded here, the guest has no merge in progress either.
    conclude_merge(&world.host());
    world.send_again(record, &OPTIONS).unwrap();
    assert_guest_matches_host(&world);
    assert_eq!(git(&world.guest(), &["status"]), git(&world.host(), &["status"]));
}

/// A hostile repository gives no access to the user's files outside it.
#[test]
fn a_hostile_repository_exposes_no_files_outside_it() {
    let world = varied();
    fs::write(world.path("key"), "a secret").unwrap();
    for name in ["info/exclude", "MERGE_MSG"] {
        let path = world.host().join(".git").join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(world.path("key"), path).unwrap();
    }
    world.send(&OPTIONS).unwrap();
    let sent = |name: &str| fs::read_to_string(world.guest().join(".git").join(name)).unwrap_or_default();
    assert_eq!((sent("info/exclude"), sent("MERGE_MSG")), (String::new(), String::new()));

    // The working tree is where the repository is, whatever its configuration says.
    let find = |world: &World| Repository::find(&Git::find().unwrap(), &world.host());
    git(&world.host(), &["config", "core.worktree", world.path(".").to_str().unwrap()]);
    assert!(matches!(find(&world), Err(WorkspaceError::ForeignWorkTree(_))));
    git(&world.host(), &["config", "core.worktree", world.host().to_str().unwrap()]);
    assert!(find(&world).is_ok());
    // The git directory may be elsewhere.
    let elsewhere = world.path("a place\nof its own ");
    git(&world.host(), &["init", "-q", "--separate-git-dir", elsewhere.to_str().unwrap()]);
    assert!(find(&world).is_ok());

    // A pipe does not block.
    for name in ["info/exclude", "sharedindex.0000"] {
        let world = varied();
        git(&world.host(), &["update-index", "--split-index"]);
        let pipe = world.host().join(".git").join(name);
        let _ = fs::remove_file(&pipe);
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        assert!(matches!(world.snapshot(&OPTIONS), Err(WorkspaceError::Read { .. })), "{name}");
    }
}

/// No part of the guest's repository has a token that the host's configuration or git files have.
#[test]
fn credentials_of_remotes_stay_on_the_host() {
    let world = varied_and_committed();
    let root = world.host();
    for (key, value) in [
        ("remote.origin.url", "https://user:TOKEN@example.com/repo.git?token=TOKEN"),
        ("remote.origin.pushurl", "https://TOKEN@example.com/repo.git"),
        ("remote.other.url", "https://TOKEN@example.com/other.git"),
        ("url.https://TOKEN@example.com/.insteadOf", "https://example.com/"),
        ("http.https://example.com/.extraHeader", "AUTHORIZATION: basic TOKEN"),
        ("branch.main.remote", "https://TOKEN@example.com/repo.git"),
        ("branch.main.pushRemote", "https://TOKEN@example.com/repo.git"),
        ("branch.main.merge", "refs/heads/main"),
        ("credential.helper", "!echo password=TOKEN"),
    ] {
        git(&root, &["config", key, value]);
    }
    let head = git(&root, &["rev-parse", "HEAD"]);
    write(
        &root,
        ".git/FETCH_HEAD",
        format!("{}\t\tbranch 'main' of https://TOKEN@example.com/repo\n", head.trim()),
    );
    for log in ["HEAD", "refs/heads/main"] {
        let line = format!("{0} {0} x <x> 0 +0000\tpull https://TOKEN@example.com\n", head.trim());
        write(&root, &format!(".git/logs/{log}"), line);
    }
    world.send(&OPTIONS).unwrap();
    assert_eq!(git(&world.guest(), &["remote", "get-url", "origin"]), "https://example.com/repo.git\n");
    let repository = Repository::find(&Git::find().unwrap(), &root).unwrap();
    assert!(repository.has_origin_credentials() && repository.has_credentials().unwrap());
    let mut dirs = vec![world.guest()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_symlink() => {}
                _ => {
                    let content = fs::read(entry.path()).unwrap();
                    let found = content.windows(5).any(|part| part == b"TOKEN");
                    assert!(!found, "{}", entry.path().display());
                }
            }
        }
    }

    git(&root, &["config", "remote.origin.url", "git@example.com:repo.git"]);
    let repository = Repository::find(&Git::find().unwrap(), &root).unwrap();
    assert_eq!(repository.origin().unwrap(), b"git@example.com:repo.git");
    assert!(!repository.has_origin_credentials());
}

#[test]
fn another_branch_and_commit_can_be_checked_out_in_the_guest() {
    let world = varied();
    world.send(&Options { branch: Some("agent/try".into()), ..OPTIONS }).unwrap();
    assert_eq!(git(&world.guest(), &["branch", "--show-current"]).trim(), "agent/try");
    assert_eq!(git(&world.guest(), STATUS), git(&world.host(), STATUS));

    let world = varied();
    world.send(&Options { branch: Some("old".into()), from: Some("HEAD~4".into()), ..OPTIONS }).unwrap();
    assert_eq!(git(&world.guest(), STATUS), "");
    assert_eq!(fs::read_to_string(world.guest().join("plain")).unwrap(), "plain 10");
    assert_eq!(git(&world.guest(), &["rev-parse", "old"]), git(&world.host(), &["rev-parse", "HEAD~4"]));
    git(&world.guest(), &["fsck", "--strict"]);

    let error = |options| world.snapshot(&options).unwrap_err();
    assert!(matches!(
        error(Options { from: Some("nowhere".into()), ..OPTIONS }),
        WorkspaceError::NoCommit(_)
    ));
    assert!(matches!(
        error(Options { branch: Some("a..b".into()), ..OPTIONS }),
        WorkspaceError::BranchName(_)
    ));
    assert!(matches!(error(Options { branch: Some("-d".into()), ..OPTIONS }), WorkspaceError::BranchName(_)));
}

#[test]
fn metadata_mode_sends_history_without_files() {
    let world = varied();
    world.send(&Options { mode: Mode::Metadata, ..OPTIONS }).unwrap();
    assert!(tree(&world.guest()).is_empty());
    git(&world.guest(), &["fsck", "--strict"]);
    git(&world.guest(), &["checkout", "-q", "-f"]);
    assert_eq!(fs::read_to_string(world.guest().join("plain")).unwrap(), "plain 14");
}

#[test]
fn unsendable_repositories_produce_specific_errors() {
    let find = |path: &std::path::Path| Repository::find(&Git::find().unwrap(), path).unwrap_err();
    let world = World::new();
    assert!(matches!(find(&world.path("none")), WorkspaceError::NoDirectory(_)));
    fs::create_dir(world.path("empty")).unwrap();
    assert!(matches!(find(&world.path("empty")), WorkspaceError::NoRepository(_)));
    git(&world.path("empty"), &["init", "-q", "--bare"]);
    assert!(matches!(find(&world.path("empty")), WorkspaceError::Bare(_)));
    // The error names each submodule.
    world.write("a", "a");
    world.commit_all("a");
    let other = World::new();
    other.write("b", "b");
    other.commit_all("b");
    git(&world.host(), &["submodule", "--quiet", "add", other.host().to_str().unwrap(), "sub"]);
    let Err(WorkspaceError::Submodules(paths)) = world.snapshot(&OPTIONS) else {
        panic!("the snapshot was taken")
    };
    assert_eq!(paths, [b"sub".to_vec()]);
    // A repository of another user.
    let theirs = World::new();
    let nobody = rustix::process::Uid::from_raw(65534);
    if rustix::process::geteuid().is_root() {
        for path in [theirs.host(), theirs.host().join(".git")] {
            rustix::fs::chown(&path, Some(nobody), None).unwrap();
        }
        assert!(matches!(find(&theirs.host()), WorkspaceError::UntrustedOwner(_)));
    }
}

#[test]
fn nested_repositories_are_not_sent() {
    let world = varied();
    fs::create_dir(world.host().join("inner")).unwrap();
    git(&world.host().join("inner"), &["init", "-q"]);
    write(&world.host(), "inner/file", "inner");
    let snapshot = world.snapshot(&Options { include_untracked: true, ..OPTIONS }).unwrap();
    assert_eq!(snapshot.repositories(), [b"inner".to_vec()]);
    assert!(snapshot.files().all(|(path, _)| !path.starts_with(b"inner")));
}

#[test]
fn a_git_that_is_too_old_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "git", "#!/bin/sh\necho git version 2.31.8\n");
    run_with_git(dir.path(), "with_an_old_git");
}

#[test]
#[ignore = "runs with an old git, see above"]
fn with_an_old_git() {
    let error = Repository::find(&Git::find().unwrap(), std::path::Path::new("/")).unwrap_err();
    assert!(matches!(error, WorkspaceError::Git(GitError::TooOld { .. })), "{error}");
}
