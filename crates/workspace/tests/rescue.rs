//! Every kind of work in a guest is pulled: refs, stashes, logs, operations in progress, and other working trees.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeSet, fs, path::Path};

use banger_workspace::{Budget, GuestGit, Record, WorkspaceError};
use common::{OPTIONS, World, git, git_output, tree, write};
use proptest::prelude::*;

/// A repository with some history, and its guest.
fn sent_world() -> (World, Record) {
    let world = World::new();
    for number in 0..4 {
        world.write("a", format!("a {number}\n"));
        world.write("b", format!("b {number}\n"));
        world.commit_all(&format!("commit {number}"));
    }
    let record = world.send(&OPTIONS).unwrap();
    (world, record)
}

fn id(dir: &Path, name: &str) -> String {
    git(dir, &["rev-parse", "--verify", name]).trim().to_owned()
}

fn commit(dir: &Path, message: &str) -> String {
    git(dir, &["commit", "-q", "--allow-empty", "-m", message]);
    id(dir, "HEAD")
}

/// Returns the refs of the VM on the host, without `refs/banger/box/`.
fn saved_refs(world: &World) -> Vec<String> {
    let listed = git(&world.host(), &["for-each-ref", "--format=%(refname)", "refs/banger/box"]);
    listed.lines().map(|name| name.strip_prefix("refs/banger/box/").unwrap().to_owned()).collect()
}

fn saved(world: &World, name: &str) -> String {
    id(&world.host(), &format!("refs/banger/box/{name}"))
}

/// Returns every object that the refs of the VM on the host contain.
fn saved_objects(world: &World) -> BTreeSet<String> {
    let listed =
        git(&world.host(), &["rev-list", "--objects", "--no-object-names", "--glob=refs/banger/box"]);
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn stashes_are_pulled_with_their_whole_log() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let stashes = ["first", "second", "third"].map(|text| {
        write(&guest, "a", text);
        write(&guest, "untracked", text);
        git(&guest, &["stash", "-q", "-u", "-m", text]);
        id(&guest, "stash")
    });
    // A branch of that name is another ref.
    git(&guest, &["branch", "stash", "HEAD~1"]);
    git(&guest, &["update-ref", "refs/heads/stash", &stashes[0]]);
    world.pull(&mut record).unwrap();
    let numbered = [2, 1, 0].map(|number| saved(&world, &format!("stash/{number}")));
    assert_eq!(numbered, stashes);
    assert_eq!(saved(&world, "heads/stash"), stashes[0]);
    git(&world.host(), &["stash", "apply", "-q", "refs/banger/box/stash/1"]);
    assert_eq!(fs::read(world.host().join("untracked")).unwrap(), b"second");
}

#[test]
fn tags_notes_and_refs_of_every_namespace_are_pulled() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    git(&world.host(), &["tag", "same", "HEAD~1"]);
    git(&guest, &["tag", "same", "HEAD~1"]);
    git(&guest, &["tag", "light", "HEAD~1"]);
    let tagged = commit(&guest, "only tagged");
    git(&guest, &["tag", "-a", "v1", "-m", "annotated"]);
    git(&guest, &["tag", "-a", "outer", "v1", "-m", "a tag of a tag"]);
    write(&world.path("."), "key", "only a tag has this");
    let key = git(&guest, &["hash-object", "-w", world.path("key").to_str().unwrap()]);
    git(&guest, &["tag", "key", key.trim()]);
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    git(&guest, &["notes", "add", "-m", "a note"]);
    git(&guest, &["notes", "--ref=other", "add", "-m", "another note"]);
    let commits = ["remotes/origin/x", "remotes/fork/x", "original/refs/heads/main", "jj/keep/1", "HEAD"];
    for name in commits {
        let id = git(&guest, &["commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", name]);
        git(&guest, &["update-ref", &format!("refs/{name}"), id.trim()]);
    }
    git(&guest, &["update-ref", "refs/trees/x", &id(&guest, "HEAD^{tree}")]);
    // Refs of commits that something else contains need none of their own.
    git(&guest, &["update-ref", "refs/remotes/origin/old", "HEAD"]);
    git(&guest, &["pack-refs", "--all"]);
    world.pull(&mut record).unwrap();
    let expected = [
        "HEAD",
        "notes/commits",
        "notes/other",
        "reflog/",
        "refs/HEAD",
        "refs/jj/keep/1",
        "refs/original/refs/heads/main",
        "refs/trees/x",
        "remotes/fork/x",
        "remotes/origin/x",
        "tags/key",
        "tags/light",
        "tags/outer",
        "tags/v1",
    ];
    let found: Vec<_> = saved_refs(&world).into_iter().filter(|name| !name.starts_with("reflog/")).collect();
    assert_eq!(found, expected.into_iter().filter(|name| *name != "reflog/").collect::<Vec<_>>());
    for name in ["tags/v1", "tags/outer", "tags/key", "tags/light", "notes/other", "remotes/fork/x"] {
        assert_eq!(saved(&world, name), id(&guest, &format!("refs/{name}")), "{name}");
    }
    assert!(saved_objects(&world).contains(&tagged));
    assert_eq!(git(&world.host(), &["cat-file", "-p", key.trim()]), "only a tag has this");
    git(&world.host(), &["fsck", "--strict"]);
}

#[test]
fn commits_that_only_a_log_names_are_pulled() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let mut lost = Vec::new();
    lost.push(commit(&guest, "reset"));
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    lost.push(commit(&guest, "amended"));
    git(&guest, &["commit", "-q", "--amend", "--allow-empty", "-m", "kept"]);
    git(&guest, &["checkout", "-q", "-b", "topic"]);
    lost.push(commit(&guest, "of a deleted branch"));
    lost.push(commit(&guest, "and another"));
    git(&guest, &["checkout", "-q", "main"]);
    git(&guest, &["branch", "-q", "-D", "topic"]);
    git(&guest, &["checkout", "-q", "--detach"]);
    lost.push(commit(&guest, "detached"));
    git(&guest, &["checkout", "-q", "main"]);
    world.pull(&mut record).unwrap();
    let objects = saved_objects(&world);
    for id in &lost {
        assert!(objects.contains(id), "{}", git(&guest, &["log", "-1", "--format=%s", id]));
    }
    // One ref for each line of history.
    let refs = saved_refs(&world);
    assert_eq!(refs.iter().filter(|name| name.starts_with("reflog/")).count(), 3, "{refs:?}");
    assert_eq!(saved(&world, "state/ORIG_HEAD"), lost[0]);
}

#[test]
fn operations_in_progress_are_pulled_with_what_they_set_aside() {
    // A rebase that stopped at a conflict, with an automatic stash.
    let (world, mut record) = sent_world();
    let guest = world.guest();
    git(&guest, &["checkout", "-q", "-b", "topic", "HEAD~1"]);
    write(&guest, "a", "topic");
    git(&guest, &["commit", "-qam", "topic"]);
    write(&guest, "b", "set aside");
    assert!(!git_output(&guest, &["rebase", "-q", "--autostash", "main"]).status.success());
    let autostash = fs::read_to_string(guest.join(".git/rebase-merge/autostash")).unwrap();
    world.pull(&mut record).unwrap();
    assert_eq!(saved(&world, "state/rebase-merge/autostash"), autostash.trim());
    let shown = git(&world.host(), &["show", "refs/banger/box/state/rebase-merge/autostash:b"]);
    assert_eq!(shown, "set aside");
    assert!(saved_objects(&world).contains(&id(&guest, "REBASE_HEAD")));

    // A merge with one, which changes no ref.
    let (world, mut record) = sent_world();
    let guest = world.guest();
    git(&guest, &["checkout", "-q", "-b", "topic", "HEAD~1"]);
    write(&guest, "a", "topic");
    git(&guest, &["commit", "-qam", "topic"]);
    git(&guest, &["checkout", "-q", "main"]);
    write(&guest, "b", "set aside");
    assert!(!git_output(&guest, &["merge", "-q", "--autostash", "topic"]).status.success());
    let autostash = fs::read_to_string(guest.join(".git/MERGE_AUTOSTASH")).unwrap();
    world.pull(&mut record).unwrap();
    assert_eq!(saved(&world, "state/MERGE_AUTOSTASH"), autostash.trim());
    // All sides of the conflict.
    let objects = saved_objects(&world);
    for entry in git(&guest, &["ls-files", "-u"]).lines() {
        assert!(objects.contains(entry.split(' ').nth(1).unwrap()), "{entry}");
    }

    // A bisection, and commits that were only fetched.
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let bad = commit(&guest, "bad");
    git(&guest, &["bisect", "start", "HEAD", "HEAD~2"]);
    git(&guest, &["update-ref", "-d", "refs/heads/main"]);
    let other = world.path("other");
    git(&world.path("."), &["clone", "-q", world.host().to_str().unwrap(), "other"]);
    let fetched = ["one", "two"].map(|name| {
        git(&other, &["checkout", "-q", "-b", name, "main"]);
        commit(&other, name)
    });
    git(&guest, &["fetch", "-q", other.to_str().unwrap(), "one", "two"]);
    world.pull(&mut record).unwrap();
    let objects = saved_objects(&world);
    assert!(objects.contains(&bad) && fetched.iter().all(|id| objects.contains(id)));
}

#[test]
fn staged_content_that_no_file_has_is_pulled() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    write(&guest, "a", "staged");
    git(&guest, &["add", "a"]);
    let before = fs::metadata(guest.join("b")).unwrap().modified().unwrap();
    write(&guest, "a", "a 3\n");
    fs::write(world.path("patch"), "only staged\n").unwrap();
    let blob = git(&guest, &["hash-object", "-w", world.path("patch").to_str().unwrap()]);
    git(&guest, &["update-index", "--add", "--cacheinfo", &format!("100644,{},new", blob.trim())]);
    git(&guest, &["rm", "-q", "--cached", "b"]);
    write(&guest, "intended", "not staged");
    git(&guest, &["add", "-N", "intended"]);
    assert_eq!(fs::metadata(guest.join("b")).unwrap().modified().unwrap(), before);
    world.pull(&mut record).unwrap();
    let show = |name: &str| git(&world.host(), &["show", &format!("refs/banger/box/index:{name}")]);
    assert_eq!((show("a"), show("new")), ("staged".to_owned(), "only staged\n".to_owned()));
    let names = git(&world.host(), &["ls-tree", "-r", "--name-only", "refs/banger/box/index"]);
    assert_eq!(names, "a\nnew\n");
    let parent = id(&world.host(), "refs/banger/box/index^");
    assert_eq!(parent, id(&guest, "HEAD"));
    // What is staged and in the files too needs no second ref.
    git(&guest, &["reset", "-q", "--hard"]);
    write(&guest, "a", "staged");
    git(&guest, &["add", "a"]);
    world.pull(&mut record).unwrap();
    assert_eq!(saved_refs(&world), ["HEAD", "uncommitted"]);
    // Nor does an index that git only refreshed.
    git(&guest, &["reset", "-q", "--hard"]);
    git(&guest, &["status"]);
    world.pull(&mut record).unwrap();
    assert_eq!(saved_refs(&world), ["HEAD"]);
}

#[test]
fn other_working_trees_are_pulled_with_their_files_and_refs() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    world.write(".git/info/unrelated", "");
    write(&guest, ".git/info/exclude", "*.log\n");
    git(&guest, &["worktree", "add", "-q", "--detach", "../outside"]);
    git(&guest, &["worktree", "add", "-q", "-b", "topic", "inside"]);
    git(&guest, &["worktree", "add", "-q", "--detach", "../clean"]);
    git(&guest, &["worktree", "add", "-q", "--detach", "../deleted"]);
    let (outside, inside) = (world.path("guest/outside"), guest.join("inside"));
    let detached = commit(&outside, "in a detached working tree");
    git(&outside, &["update-ref", "refs/worktree/own", &commit(&outside, "own")]);
    git(&outside, &["reset", "-q", "--hard", "HEAD~1"]);
    write(&outside, "a", "edited outside");
    write(&outside, "new", "new outside");
    write(&outside, "b.log", "ignored");
    fs::remove_file(outside.join("b")).unwrap();
    write(&inside, "a", "staged inside");
    git(&inside, &["add", "a"]);
    write(&inside, "a", "edited inside");
    let deleted = world.path("guest/deleted");
    let lost = commit(&deleted, "in a deleted directory");
    write(&deleted, "a", "staged in a deleted directory");
    git(&deleted, &["add", "a"]);
    fs::remove_dir_all(&deleted).unwrap();
    write(&guest, ".git/worktrees/removed/logs/HEAD", "");
    // The directory is used for something else.
    write(&deleted, "unrelated", "unrelated");
    let state = tree(&outside);
    world.pull(&mut record).unwrap();
    assert_eq!(tree(&outside), state);
    let show = |name: &str| git(&world.host(), &["show", &format!("refs/banger/box/worktrees/{name}")]);
    assert_eq!(saved(&world, "worktrees/outside/HEAD"), detached);
    assert_eq!(show("outside/uncommitted:a"), "edited outside");
    assert_eq!(show("outside/uncommitted:new"), "new outside");
    let changed = ["diff", "--name-status", "refs/banger/box/worktrees/outside/HEAD"];
    let changed =
        git(&world.host(), &[&changed[..], &["refs/banger/box/worktrees/outside/uncommitted"]].concat());
    assert_eq!(changed, "M\ta\nD\tb\nA\tnew\n");
    assert!(saved_objects(&world).contains(&id(&outside, "refs/worktree/own")));
    assert_eq!(show("inside/uncommitted:a"), "edited inside");
    assert_eq!(show("inside/index:a"), "staged inside");
    assert!(saved_objects(&world).contains(&lost));
    assert_eq!(show("deleted/index:a"), "staged in a deleted directory");
    assert!(!saved_refs(&world).iter().any(|name| name.contains("clean")), "{:?}", saved_refs(&world));
    git(&world.host(), &["fsck", "--strict"]);
    let before = git(&world.host(), &["for-each-ref"]);
    world.pull(&mut record).unwrap();
    assert_eq!(git(&world.host(), &["for-each-ref"]), before);
}

#[test]
fn a_repository_with_reftable_is_pulled() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let migrated = git_output(&guest, &["refs", "migrate", "--ref-format=reftable"]);
    let message = String::from_utf8_lossy(&migrated.stderr).into_owned();
    if message.contains("is not a git command") {
        return;
    }
    assert!(migrated.status.success(), "{message}");
    write(&guest, "a", "stashed");
    git(&guest, &["stash", "-q"]);
    write(&guest, "a", "stashed too");
    git(&guest, &["stash", "-q"]);
    let lost = commit(&guest, "lost");
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    git(&guest, &["tag", "-a", "v1", "-m", "v1"]);
    let set_aside = commit(&guest, "named by a pseudo-ref");
    git(&guest, &["update-ref", "CHERRY_PICK_HEAD", &set_aside]);
    git(&guest, &["reset", "-q", "--soft", "HEAD~1"]);
    let later = commit(&guest, "later");
    git(&guest, &["worktree", "add", "-q", "--detach", "../other"]);
    let other = world.path("guest/other");
    let in_other = commit(&other, "in the other working tree");
    git(&other, &["update-ref", "refs/worktree/own", &commit(&other, "own")]);
    git(&other, &["reset", "-q", "--hard", "HEAD~2"]);
    write(&other, "a", "uncommitted");
    world.pull(&mut record).unwrap();
    assert_eq!(saved(&world, "HEAD"), later);
    assert_eq!(saved(&world, "heads/main"), later);
    assert_eq!([0, 1].map(|number| saved(&world, &format!("stash/{number}"))), {
        ["stash@{0}", "stash@{1}"].map(|name| id(&guest, name))
    });
    assert_eq!(saved(&world, "tags/v1"), id(&guest, "v1"));
    assert_eq!(git(&world.host(), &["show", "refs/banger/box/worktrees/other/uncommitted:a"]), "uncommitted");
    let objects = saved_objects(&world);
    for id in [&in_other, &lost, &set_aside, &id(&other, "refs/worktree/own")] {
        assert!(objects.contains(id), "{}", git(&guest, &["log", "-1", "--format=%s", id]));
    }
}

#[test]
fn missing_objects_and_a_guest_without_git_are_errors() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let lost = commit(&guest, "lost");
    let object = guest.join(".git/objects").join(&lost[..2]).join(&lost[2..]);
    fs::remove_file(object).unwrap();
    let error = world.pull(&mut record).unwrap_err();
    assert!(matches!(error, WorkspaceError::GuestGit { .. }), "{error}");
    assert_eq!(saved_refs(&world), [""; 0]);

    // The tree of a commit that only the log names.
    let (world, mut record) = sent_world();
    let guest = world.guest();
    write(&guest, "a", "lost");
    git(&guest, &["commit", "-qam", "lost"]);
    let tree = id(&guest, "HEAD^{tree}");
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    fs::remove_file(guest.join(".git/objects").join(&tree[..2]).join(&tree[2..])).unwrap();
    world.pull(&mut record).unwrap_err();

    // History that the guest itself does not have.
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let other = world.path("other");
    git(&world.path("."), &["init", "-q", "-b", "main", "other"]);
    commit(&other, "first");
    commit(&other, "second");
    let url = format!("file://{}", other.display());
    git(&guest, &["fetch", "-q", "--depth=1", &url, "main:refs/heads/shallow"]);
    let error = world.pull(&mut record).unwrap_err();
    assert!(matches!(error, WorkspaceError::Incomplete(_)), "{error}");
    assert_eq!(saved_refs(&world), [""; 0]);
    git(&guest, &["fetch", "-q", "--unshallow", &url, "main"]);
    world.pull(&mut record).unwrap();
    git(&world.host(), &["fsck", "--strict"]);
}

#[test]
fn only_objects_that_the_host_lacks_are_fetched() {
    let world = World::new();
    for number in 0..200 {
        world.write(&format!("dir{}/file {number}", number % 10), format!("content {number} ").repeat(9));
    }
    world.commit_all("first");
    let mut record = world.send(&OPTIONS).unwrap();
    // The host's own history has changed since.
    git(&world.host(), &["commit", "-q", "--amend", "-m", "amended"]);
    write(&world.guest(), "new", "new");
    git(&world.guest(), &["add", "new"]);
    commit(&world.guest(), "new");
    let GuestGit(mut words) = world.guest_git();
    let script = words[2].to_str().unwrap().replace("exec \"$@\"", "\"$@\"");
    let answers = world.path("answers");
    words[2] = format!("{{ {script}\n}} | tee -a {}", answers.display()).into();
    world.pull_through(&mut record, &Budget::default(), &GuestGit(words)).unwrap();
    // Names, three objects, and what deltas need; not two hundred files.
    let size = fs::metadata(answers).unwrap().len();
    assert!((500..3000).contains(&size), "{size}");
}

#[test]
fn lfs_content_that_the_host_lacks_is_reported() {
    let (world, _) = sent_world();
    let object = |name: &str| format!(".git/lfs/objects/aa/bb/{name}");
    write(&world.guest(), &object("here"), "content");
    write(&world.host(), &object("here"), "content");
    write(&world.guest(), &object("new"), "content");
    let left_out = world.git_state().unwrap().left_out(&world.repository().unwrap());
    let paths: Vec<_> =
        left_out.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    assert_eq!(paths, [object("new")]);
    assert!(left_out[0].is_work);
}

/// The host's own garbage collection may have deleted what was sent.
#[test]
fn work_is_pulled_after_the_host_deleted_what_was_sent() {
    let world = World::new();
    world.write("a", "a");
    world.write("b", "b");
    world.commit_all("first");
    world.write("a", "amended later");
    world.commit_all("second");
    world.write("b", "staged");
    git(&world.host(), &["add", "b"]);
    let mut record = world.send(&OPTIONS).unwrap();
    git(&world.host(), &["reset", "-q", "--hard"]);
    let collect = |world: &World| {
        git(&world.host(), &["reflog", "expire", "--expire=now", "--all"]);
        fs::remove_file(world.host().join(".git/ORIG_HEAD")).unwrap();
        git(&world.host(), &["gc", "-q", "--prune=now"]);
    };
    collect(&world);
    write(&world.guest(), "new", "new");
    world.pull(&mut record).unwrap();
    let show = |name: &str| git(&world.host(), &["show", &format!("refs/banger/box/uncommitted:{name}")]);
    assert_eq!((show("new"), show("b")), ("new".to_owned(), "staged".to_owned()));
    git(&world.host(), &["update-ref", "-d", "refs/banger/box/HEAD"]);
    git(&world.host(), &["update-ref", "-d", "refs/banger/box/uncommitted"]);
    git(&world.host(), &["reset", "-q", "--hard", "HEAD~1"]);
    collect(&world);
    world.pull(&mut record).unwrap();
    assert_eq!((show("a"), show("b")), ("amended later".to_owned(), "staged".to_owned()));
}

/// Work without any ref, and a guest with an old git.
#[test]
fn logs_are_pulled_without_refs_and_with_the_older_protocol() {
    let (world, mut record) = sent_world();
    let guest = world.guest();
    let lost = commit(&guest, "lost");
    git(&guest, &["checkout", "-q", "--orphan", "other"]);
    git(&guest, &["update-ref", "-d", "refs/heads/main"]);
    world.pull(&mut record).unwrap();
    assert!(saved_objects(&world).contains(&lost));

    let (world, mut record) = sent_world();
    let lost = commit(&world.guest(), "lost");
    git(&world.guest(), &["reset", "-q", "--hard", "HEAD~1"]);
    let GuestGit(mut words) = world.guest_git();
    words[2] = words[2].to_str().unwrap().replace("version=2", "").into();
    world.pull_through(&mut record, &Budget::default(), &GuestGit(words)).unwrap();
    assert!(saved_objects(&world).contains(&lost));
}

/// An earlier VM's work is kept, whatever the second VM has under the same names.
#[test]
fn a_second_vm_of_the_same_name_loses_nothing_of_the_first() {
    let (world, mut record) = sent_world();
    let fresh = record.clone();
    let guest = world.guest();
    fs::rename(&guest, world.path("guest/fresh")).unwrap();
    git(&world.path("guest"), &["clone", "-q", "fresh", "repo"]);
    let work = |text: &str| {
        commit(&guest, &format!("{text} lost"));
        git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
        commit(&guest, text);
        git(&guest, &["tag", "-f", "-a", "v1", "-m", text]);
        git(&guest, &["notes", "add", "-f", "-m", text]);
        write(&guest, "a", text);
        git(&guest, &["stash", "-q"]);
        write(&guest, "b", text);
    };
    work("first");
    world.pull(&mut record).unwrap();
    let before = saved_objects(&world);
    fs::remove_dir_all(&guest).unwrap();
    fs::rename(world.path("guest/fresh"), &guest).unwrap();
    work("second");
    let mut record = fresh;
    let pulled = world.pull(&mut record).unwrap();
    assert!(!pulled.replaced.is_empty());
    let after = saved_objects(&world);
    assert_eq!(before.difference(&after).collect::<Vec<_>>(), [""; 0]);
    world.pull(&mut record).unwrap();
    assert_eq!(saved_objects(&world), after);
}

/// A step of work with git in the guest.
#[derive(Debug, Clone)]
enum Step {
    Write(u8, u8),
    Commit,
    Amend,
    Reset(u8),
    Stash,
    Pop,
    Tag(u8, bool),
    Note(u8),
    Branch(u8),
    Checkout(u8),
    Detach,
    Delete(u8),
    Worktree(u8),
    InWorktree(u8, u8),
    RemoveWorktree(u8),
    Rebase(u8),
    Merge(u8),
    Stage(u8),
    PackRefs,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = || 0u8..3;
    prop::collection::vec(
        prop_oneof![
            4 => (small(), any::<u8>()).prop_map(|(name, content)| Step::Write(name, content)),
            4 => Just(Step::Commit),
            2 => Just(Step::Amend),
            2 => (1u8..3).prop_map(Step::Reset),
            2 => Just(Step::Stash),
            1 => Just(Step::Pop),
            1 => (small(), any::<bool>()).prop_map(|(name, annotated)| Step::Tag(name, annotated)),
            1 => small().prop_map(Step::Note),
            2 => small().prop_map(Step::Branch),
            2 => small().prop_map(Step::Checkout),
            1 => Just(Step::Detach),
            1 => small().prop_map(Step::Delete),
            1 => small().prop_map(Step::Worktree),
            3 => (small(), any::<u8>()).prop_map(|(name, content)| Step::InWorktree(name, content)),
            1 => small().prop_map(Step::RemoveWorktree),
            1 => small().prop_map(Step::Rebase),
            1 => small().prop_map(Step::Merge),
            1 => small().prop_map(Step::Stage),
            1 => Just(Step::PackRefs),
        ],
        1..14,
    )
}

/// Carries out `steps`. Those that git refuses change nothing.
fn apply(root: &Path, steps: &[Step]) {
    let git = |arguments: &[&str]| drop(git_output(root, arguments));
    // Names that differ only in case, or are parts of others.
    let branch = |number: &u8| ["stash", "Topic/x", "topic"][usize::from(*number)];
    for step in steps {
        match step {
            Step::Write(name, content) => write(root, &format!("f{name}"), [*content, b'\n']),
            Step::Commit => {
                git(&["add", "-A", "--", ":!w*"]);
                git(&["commit", "-q", "--allow-empty", "-m", "step"]);
            }
            Step::Amend => git(&["commit", "-q", "--amend", "--allow-empty", "-m", "amended"]),
            Step::Reset(count) => git(&["reset", "-q", "--hard", &format!("HEAD~{count}")]),
            Step::Stash => git(&["stash", "-q", "-u"]),
            Step::Pop => git(&["stash", "pop", "-q"]),
            Step::Tag(name, true) => git(&["tag", "-f", "-a", &format!("t{name}"), "-m", "tag"]),
            Step::Tag(name, false) => git(&["tag", "-f", &format!("t{name}")]),
            Step::Note(name) => git(&["notes", "add", "-f", "-m", &name.to_string()]),
            Step::Branch(name) => git(&["checkout", "-q", "-b", branch(name)]),
            Step::Checkout(name) => git(&["checkout", "-q", branch(name)]),
            Step::Detach => git(&["checkout", "-q", "--detach"]),
            Step::Delete(name) => git(&["branch", "-q", "-D", branch(name)]),
            Step::Worktree(name) => git(&["worktree", "add", "-q", "--detach", &format!("w{name}")]),
            Step::InWorktree(name, content) => {
                let dir = root.join(format!("w{name}"));
                if dir.join(".git").is_file() {
                    write(&dir, "f0", [*content, b'\n']);
                    match content % 4 {
                        0 => drop(git_output(&dir, &["add", "-A"])),
                        1 => drop(git_output(&dir, &["commit", "-q", "-a", "-m", "in a working tree"])),
                        2 => drop(git_output(&dir, &["reset", "-q", "--hard", "HEAD~1"])),
                        _ => {}
                    }
                }
            }
            Step::RemoveWorktree(name) => drop(fs::remove_dir_all(root.join(format!("w{name}")))),
            Step::Rebase(name) => git(&["rebase", "-q", "--autostash", branch(name)]),
            Step::Merge(name) => git(&["merge", "-q", "--autostash", "-m", "merge", branch(name)]),
            Step::Stage(name) => git(&["add", "--", &format!("f{name}")]),
            Step::PackRefs => git(&["pack-refs", "--all"]),
        }
    }
}

/// Returns every object that git itself would keep in the guest: what refs, logs, indexes and the state of operations
/// name.
fn kept_objects(root: &Path) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    let mut add = |dir: &Path, arguments: &[&str]| {
        let listed = git_output(dir, &[&["rev-list", "--objects", "--no-object-names"], arguments].concat());
        objects.extend(String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned));
    };
    add(root, &["--all", "--reflog", "--indexed-objects"]);
    let dirs = ["", "w0", "w1", "w2"].map(|name| root.join(name));
    for dir in dirs.iter().filter(|dir| dir.join(".git").exists()) {
        for name in ["MERGE_AUTOSTASH", "ORIG_HEAD", "MERGE_HEAD", "REBASE_HEAD"] {
            add(dir, &[name, "--"]);
        }
    }
    if let Ok(autostash) = fs::read_to_string(root.join(".git/rebase-merge/autostash")) {
        add(root, &[autostash.trim()]);
    }
    objects
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 15, max_shrink_iters: 80, ..ProptestConfig::default() })]

    #[test]
    fn everything_that_git_would_keep_is_pulled(first in steps(), second in steps()) {
        let (world, mut record) = sent_world();
        let host_objects = |world: &World| -> BTreeSet<String> {
            let listed = git(&world.host(), &["rev-list", "--objects", "--no-object-names", "--all"]);
            listed.lines().map(str::to_owned).collect()
        };
        for steps in [first, second] {
            apply(&world.guest(), &steps);
            let kept = kept_objects(&world.guest());
            world.pull(&mut record).unwrap();
            // Some of it came from the host.
            let saved = host_objects(&world);
            prop_assert_eq!(kept.difference(&saved).collect::<Vec<_>>(), [""; 0]);
            let refs = git(&world.host(), &["for-each-ref"]);
            world.pull(&mut record).unwrap();
            prop_assert_eq!(git(&world.host(), &["for-each-ref"]), refs);
        }
        git(&world.host(), &["fsck", "--strict"]);
    }
}

#[test]
fn uncommitted_work_that_was_sent_is_no_work_of_the_guest() {
    let world = World::new();
    for name in ["edited", "other"] {
        world.write(name, "committed\n");
    }
    world.commit_all("first");
    world.write("edited", "edited on the host\n");
    let record = world.send(&OPTIONS).unwrap();
    assert!(!world.has_work(&record));
    write(&world.guest(), "other", "edited in the guest\n");
    assert!(world.has_work(&record));
    write(&world.guest(), "other", "committed\n");
    fs::remove_file(world.guest().join("edited")).unwrap();
    assert!(world.has_work(&record));
}
