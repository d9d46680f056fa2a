//! Partial clones: some of their objects are only at their origin.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path, process::Command};

use banger_workspace::{Git, Options, Record, Repository, WorkspaceError};
use common::{OPTIONS, World, git, tree, with_each_git, write};

/// An origin with two versions of each file, which allows filters.
fn origin() -> World {
    let world = World::new();
    for version in ["old", "new"] {
        world.write("a", version);
        world.write("dir/b", version);
        world.commit_all(version);
    }
    git(&world.host(), &["config", "uploadpack.allowFilter", "true"]);
    world
}

/// Replaces the host's repository by a clone of it.
fn clone(world: &World, arguments: &[&str]) {
    let (origin, host) = (world.path("origin"), world.host());
    fs::rename(&host, &origin).unwrap();
    let url = format!("file://{}", origin.display());
    git(&world.path("."), &[&["clone", "-q"], arguments, &[&url, host.to_str().unwrap()]].concat());
}

fn assert_partial(world: &World, options: &Options) {
    let result = world.snapshot(options);
    assert!(matches!(result, Err(WorkspaceError::PartialClone)), "{result:?}");
}

#[test]
fn partial_clones_are_not_sent() {
    with_each_git("every_partial_clone");
}

#[test]
#[ignore = "runs with each git, see above"]
fn every_partial_clone() {
    for arguments in [
        ["--filter=blob:none", "--no-checkout"],
        ["--filter=tree:0", "--depth=1"],
        ["--filter=blob:limit=1", "--origin=elsewhere"],
        ["--filter=blob:none", "--bare"],
    ] {
        let world = origin();
        clone(&world, &arguments);
        if arguments.contains(&"--bare") {
            let bare = world.path("bare");
            fs::rename(world.host(), &bare).unwrap();
            git(&bare, &["worktree", "add", "-q", world.host().to_str().unwrap()]);
        }
        assert_partial(&world, &OPTIONS);
    }
    // A filter that applies to later fetches.
    let world = origin();
    clone(&world, &[]);
    assert!(world.snapshot(&OPTIONS).is_ok());
    git(&world.host(), &["fetch", "-q", "--filter=blob:none", "origin"]);
    assert_partial(&world, &OPTIONS);
    // Before 2.24, git knew only one such remote.
    let world = origin();
    git(&world.host(), &["config", "core.repositoryFormatVersion", "1"]);
    git(&world.host(), &["config", "extensions.partialClone", "origin"]);
    assert_partial(&world, &OPTIONS);
}

/// Removing the remote does not bring the objects back.
#[test]
fn promisor_packs_are_sent_if_they_are_complete() {
    with_each_git("clones_with_promisor_packs");
}

#[test]
#[ignore = "runs with each git, see above"]
fn clones_with_promisor_packs() {
    for filter in ["blob:none", "tree:0"] {
        let world = origin();
        clone(&world, &[&format!("--filter={filter}")]);
        git(&world.host(), &["remote", "remove", "origin"]);
        assert_partial(&world, &OPTIONS);
        let recent = Options { depth: 1, ..OPTIONS };
        world.send(&recent).unwrap();
        assert_eq!(tree(&world.guest()), tree(&world.host()));
        git(&world.guest(), &["fsck", "--strict"]);
        fs::remove_dir_all(world.guest()).unwrap();
        git(
            &world.host(),
            &["remote", "add", "origin", &format!("file://{}", world.path("origin").display())],
        );
        for version in ["HEAD", "HEAD~1"] {
            // The new remote has promised nothing.
            let objects =
                git(&world.path("origin"), &["rev-list", "--objects", "--no-object-names", version]);
            for id in objects.lines() {
                let path = format!("objects/{}/{}", &id[..2], &id[2..]);
                let copy = world.host().join(".git").join(&path);
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                let _ = fs::copy(world.path("origin").join(".git").join(&path), copy);
            }
        }
        world.send(&OPTIONS).unwrap();
        assert_eq!(tree(&world.guest()), tree(&world.host()));
        git(&world.guest(), &["fsck", "--strict"]);
    }
}

/// A partial clone that was copied as it is gets the work back.
#[test]
fn work_is_pulled_into_partial_clones() {
    with_each_git("pulls_into_a_partial_clone");
}

#[test]
#[ignore = "runs with each git, see above"]
fn pulls_into_a_partial_clone() {
    for filter in ["blob:none", "tree:0"] {
        let world = origin();
        clone(&world, &[&format!("--filter={filter}")]);
        fs::create_dir_all(world.path("guest")).unwrap();
        copy(&world.host(), &world.guest());
        let repository = Repository::find(&Git::find().unwrap(), &world.host()).unwrap();
        let mut record = Record::for_copy(b"/root/repo", &repository).unwrap();
        write(&world.guest(), "a", "from the guest");
        git(
            &world.guest(),
            &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-a", "-m", "guest"],
        );
        write(&world.guest(), "dir/b", "not committed");
        world.changes(&record).unwrap().patch(None).unwrap();
        assert!(world.pull(&mut record).unwrap().uncommitted);
        let show = |name: &str| git(&world.host(), &["show", name]);
        assert_eq!(show("refs/banger/box/HEAD:a"), "from the guest");
        assert_eq!(show("refs/banger/box/uncommitted:dir/b"), "not committed");
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}
