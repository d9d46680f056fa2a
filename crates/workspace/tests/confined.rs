//! What git can reach while it reads a guest's data: a git that a guest has taken over tries everything.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, io, io::Write};

use banger_sys::confine::Support;
use banger_workspace::{Git, GitError, WorkspaceError};
use common::{OPTIONS, World, git, run_with_git, write};

/// A program in place of git: where git reads a guest's data, it reports what it can do.
const TAKEN_OVER: &str = r#"#!/bin/sh
case "$*" in *" fetch "*|*" fast-import "*)
    world=$GIT_DIR/../.. repository=$GIT_DIR/../../host/repo/.git
    try() {
        name=$1; shift
        if (eval "$@") 2> /dev/null; then echo "$name: done" >&2; else echo "$name: refused" >&2; fi
    }
    try secret 'read line < $world/secret'
    try files 'read line < $world/host/repo/a'
    try configuration 'read line < $repository/config'
    try hook 'echo > $repository/hooks/post-checkout'
    try branch 'echo > $repository/refs/heads/other'
    try object 'echo > $repository/objects/new'
    try outside 'echo > $world/outside'
    try signal 'kill -0 $PPID'
    try objects 'read line < $repository/objects/marker'
    try own 'echo > $GIT_DIR/new && rm $GIT_DIR/new'
    exit 1
esac
exec /usr/bin/env PATH="${PATH#*:}" git "$@"
"#;

/// What it should be able to do. `signal` is refused from Linux 6.12 on.
const ALLOWED: [&str; 2] = ["objects: done", "own: done"];
const REFUSED: [&str; 7] = [
    "secret: refused",
    "files: refused",
    "configuration: refused",
    "hook: refused",
    "branch: refused",
    "object: refused",
    "outside: refused",
];

/// A wrapper that needs a file which a confined git cannot read.
const WRAPPER: &str = r#"#!/bin/sh
read line < "${0%/*}/settings" || exit 1
exec /usr/bin/env PATH="${PATH#*:}" git "$@"
"#;

#[test]
fn a_git_that_does_not_run_confined_is_found() {
    if !has_landlock() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "settings", "any\n");
    write(dir.path(), "git", WRAPPER);
    run_with_git(dir.path(), "not_confined");
}

#[test]
#[ignore = "runs with another git, see above"]
fn not_confined() {
    let wrapper = Git::find().unwrap();
    wrapper.version().unwrap();
    let error = wrapper.check_confinement().unwrap_err();
    assert!(matches!(error, GitError::Failed { .. }), "{error}");
}

#[test]
fn a_git_that_runs_confined_is_accepted() {
    let report = Git::find().unwrap().check_confinement().unwrap();
    assert!(report.message.contains("no new privileges"), "{report:?}");
}

#[test]
fn a_git_that_a_guest_has_taken_over_reaches_only_objects_and_its_own_files() {
    if !has_landlock() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "git", TAKEN_OVER);
    run_with_git(dir.path(), "taken_over");
}

#[test]
#[ignore = "runs with another git, see above"]
fn taken_over() {
    let world = World::new();
    world.write("a", "sent\n");
    world.commit_all("first");
    fs::write(world.path("secret"), "secret\n").unwrap();
    let objects = world.host().join(".git/objects");
    fs::write(objects.join("marker"), "marker\n").unwrap();
    fs::create_dir_all(world.host().join(".git/hooks")).unwrap();
    let mut record = world.send(&OPTIONS).unwrap();

    // `fast-import` reads the changed file.
    write(&world.guest(), "a", "changed\n");
    check(world.pull(&mut record).unwrap_err());
    // `fetch` reads the commit.
    git(&world.guest(), &["commit", "-q", "-a", "-m", "second"]);
    check(world.pull(&mut record).unwrap_err());
    let repository = world.host().join(".git");
    for path in ["hooks/post-checkout", "refs/heads/other", "objects/new"].map(|path| repository.join(path)) {
        assert!(!path.exists(), "{path:?}");
    }
    assert!(!world.path("outside").exists());
}

/// Returns whether the kernel has Landlock; if not, says that the test is skipped.
fn has_landlock() -> bool {
    let support = Support::of_kernel();
    if support.landlock.is_err() {
        // Not through `eprintln!`, whose text is only shown for a failed test.
        let text = format!("SKIPPED: Landlock is not available: {support:?}\n");
        io::stderr().write_all(text.as_bytes()).unwrap();
    }
    support.landlock.is_ok()
}

fn check(error: WorkspaceError) {
    let WorkspaceError::Git(GitError::Failed { stderr, .. }) = &error else { panic!("{error}") };
    let lines: Vec<_> = stderr.split("; ").collect();
    for line in REFUSED.iter().chain(&ALLOWED) {
        assert!(lines.contains(line), "{line} is not in {stderr}");
    }
    let signals = Support::of_kernel().has_landlock(banger_sys::confine::LANDLOCK_SCOPES);
    assert!(!signals || lines.contains(&"signal: refused"), "{stderr}");
}
