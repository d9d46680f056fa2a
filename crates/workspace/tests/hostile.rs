//! Repositories whose configuration and files try to run programs on the host or to write outside.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use banger_workspace::{Git, Mode, Options, Repository, WorkspaceError};
use common::{OPTIONS, World, executable, git, with_each_git, write};

/// Commands that each leave a file behind which names them.
struct Traps {
    dir: PathBuf,
}

impl Traps {
    fn new(world: &World) -> Self {
        let dir = world.path("ran");
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    fn command(&self, name: &str) -> String {
        format!("touch {}/{name}", self.dir.display())
    }

    /// Sets `key` of the repository at `root` to a command.
    fn set(&self, root: &Path, key: &str, prefix: &str) {
        let value = format!("{prefix}{}", self.command(&key.replace([':', '/', '*'], "_")));
        git(root, &["config", "--local", "--add", key, &value]);
    }

    fn assert_none_ran(&self) {
        let ran: Vec<_> = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(ran.is_empty(), "programs ran: {ran:?}");
    }

    /// Lets every key and file name a command, except those that make the repository a partial clone.
    fn plant(&self, world: &World) {
        let root = world.host();
        self.plant_alternate(world);
        #[rustfmt::skip]
        let keys = [
            "core.fsmonitor", "core.sshCommand", "core.pager", "core.editor", "core.askPass", "core.gitProxy",
            "core.alternateRefsCommand", "diff.external", "diff.evil.textconv", "diff.evil.command",
            "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "merge.evil.driver",
            "mergetool.evil.cmd", "difftool.evil.cmd", "uploadpack.packObjectsHook", "gpg.program", "gpg.ssh.program",
            "gpg.x509.program", "gpg.openpgp.program", "gpg.ssh.defaultKeyCommand", "sequence.editor",
            "pager.config", "pager.rev-parse", "pager.diff-tree", "interactive.diffFilter", "remote.origin.uploadpack",
            "remote.origin.receivepack", "hook.evil.command", "hook.with space = and.dot.command",
            "trailer.evil.cmd", "trailer.evil.command", "tar.evil.command", "sendemail.sendmailCmd", "browser.evil.cmd",
        ];
        for key in keys {
            self.set(&root, key, "");
        }
        for key in [
            "credential.helper",
            "credential.https://example.com.helper",
            "alias.rev-parse",
            "submodule.sub.update",
        ] {
            self.set(&root, key, "!");
        }
        self.set(&root, "remote.origin.url", "ext::");
        self.set(&root, "url.ext::sh.insteadOf", "");
        for (key, value) in [
            ("protocol.allow", "always"),
            ("protocol.ext.allow", "always"),
            ("core.hooksPath", "hooks"),
            ("hook.evil.event", "reference-transaction"),
            ("hook.with space = and.dot.event", "reference-transaction"),
            ("hook.evil.enabled", "true"),
            ("filter.evil.required", "true"),
            ("diff.evil.cachetextconv", "true"),
            ("log.showSignature", "true"),
            ("core.logAllRefUpdates", "always"),
            ("gc.auto", "1"),
            ("maintenance.auto", "true"),
            ("transfer.bundleURI", "true"),
            ("fetch.bundleURI", "https://localhost:1/"),
            ("extensions.worktreeConfig", "true"),
            ("submodule.recurse", "true"),
            ("include.path", "included"),
            ("includeIf.onbranch:*.path", "included"),
            ("core.attributesFile", "attributes"),
            ("core.excludesFile", "excludes"),
        ] {
            git(&root, &["config", "--local", key, value]);
        }
        let traces: String = ["normalTarget", "perfTarget", "eventTarget"]
            .map(|key| format!("\t{key} = {}/trace2-{key}\n", self.dir.display()))
            .concat();
        write(
            &root,
            ".git/included",
            format!("[trace2]\n{traces}[core]\n\tfsmonitor = {}\n", self.command("included")),
        );
        write(&root, ".git/config.worktree", format!("[core]\n\tfsmonitor = {}\n", self.command("worktree")));
        for hooks in ["hooks", ".git/hooks"] {
            for hook in [
                "post-index-change",
                "reference-transaction",
                "post-checkout",
                "pre-commit",
                "fsmonitor-watchman",
                "update",
                "pre-receive",
                "post-receive",
                "post-update",
                "pre-auto-gc",
                "proc-receive",
                "post-rewrite",
            ] {
                write(&root, &format!("{hooks}/{hook}"), format!("#!/bin/sh\n{}\n", self.command(hook)));
                executable(&root.join(hooks).join(hook));
            }
        }
        write(&root, ".gitattributes", "* filter=evil diff=evil merge=evil\n");
        write(&root, ".git/info/attributes", "* filter=evil diff=evil merge=evil\n");
        write(&root, "attributes", "* filter=evil diff=evil merge=evil\n");
    }

    /// Borrows objects from a partial clone with a missing commit, whose remote is a command.
    fn plant_alternate(&self, world: &World) {
        let other = world.path("other");
        git(&world.host(), &["clone", "-q", "--no-local", ".", other.to_str().unwrap()]);
        write(&other, "x", "x");
        git(&other, &["add", "x"]);
        git(&other, &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "missing"]);
        self.make_partial(&other, "alternate");
        write(&world.host(), ".git/objects/info/alternates", format!("{}/.git/objects\n", other.display()));
    }

    /// Makes the repository at `root` a partial clone without its last commit.
    fn make_partial(&self, root: &Path, name: &str) {
        let commit = git(root, &["rev-parse", "HEAD"]);
        let (dir, file) = commit.trim().split_at(2);
        for (key, value) in [
            ("core.repositoryFormatVersion", "1".to_owned()),
            ("extensions.partialClone", "origin".to_owned()),
            ("remote.origin.promisor", "true".to_owned()),
            ("remote.origin.partialclonefilter", "blob:none".to_owned()),
            (
                "remote.origin.url",
                format!("ext::sh -c {}", self.command(&format!("{name}-ext")).replace(' ', "% ")),
            ),
            ("protocol.ext.allow", "always".to_owned()),
        ] {
            git(root, &["config", "--replace-all", key, &value]);
        }
        fs::remove_file(root.join(".git/objects").join(dir).join(file)).unwrap();
    }
}

/// A repository with two commits, staged and unstaged changes, and untracked files.
fn world() -> World {
    let world = World::new();
    world.write("a", "a");
    world.write("dir/b", "b");
    world.commit_all("first");
    world.write("a", "aa");
    world.commit_all("second");
    world.write("dir/b", "bb");
    git(&world.host(), &["add", "dir/b"]);
    world.write("a", "aaa");
    world.write("untracked", "u");
    world
}

#[test]
fn a_hostile_repository_runs_nothing() {
    with_each_git("every_operation_on_a_hostile_repository");
}

#[test]
#[ignore = "runs with each git, see above"]
fn every_operation_on_a_hostile_repository() {
    let world = world();
    let traps = Traps::new(&world);
    traps.plant(&world);
    let untracked = Options { include_untracked: true, ..OPTIONS };
    for options in [
        Options { mode: Mode::Metadata, ..OPTIONS },
        Options { branch: Some("topic".into()), from: Some("HEAD~1".into()), ..OPTIONS },
    ] {
        world.send(&options).unwrap();
        traps.assert_none_ran();
        fs::remove_dir_all(world.guest()).unwrap();
    }
    let record = world.send(&untracked).unwrap();
    world.write("dir/b", "bbb");
    let (record, _) = world.send_again(record, &untracked).unwrap();
    traps.assert_none_ran();
    let mut record = world.push(record.clone()).unwrap().unwrap_or(record);
    write(&world.guest(), "new", "new");
    let changes = world.changes(&record).unwrap();
    changes.patch(None).unwrap();
    changes.list(None).unwrap();
    traps.assert_none_ran();
    git(&world.guest(), &["add", "-A"]);
    git(&world.guest(), &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "in the guest"]);
    git(&world.guest(), &["branch", "topic"]);
    write(&world.guest(), "new", "newer");
    let pulled = world.pull(&mut record);
    traps.assert_none_ran();
    let pulled = pulled.unwrap();
    assert_eq!(pulled.refs.len(), 4, "{pulled:?}");
    git(&world.guest(), &["branch", "-q", "-D", "topic"]);
    world.pull(&mut record).unwrap();
    traps.assert_none_ran();
}

#[test]
fn a_hostile_partial_clone_runs_nothing() {
    with_each_git("every_hostile_partial_clone");
}

#[test]
#[ignore = "runs with each git, see above"]
fn every_hostile_partial_clone() {
    for url in
        ["ssh://localhost/x", "localhost:x", "ext::", "https://localhost:1/x", "git://localhost:1/x", "file"]
    {
        let world = world();
        let traps = Traps::new(&world);
        let root = world.host();
        traps.make_partial(&root, "partial");
        for key in ["core.sshCommand", "core.gitProxy", "core.askPass", "remote.origin.uploadpack"] {
            traps.set(&root, key, "");
        }
        traps.set(&root, "credential.helper", "!");
        for protocol in ["ext", "ssh", "git", "https", "file"] {
            git(&root, &["config", &format!("protocol.{protocol}.allow"), "always"]);
        }
        match url {
            "ext::" => {}
            "file" => _ = git(&root, &["config", "remote.origin.url", root.to_str().unwrap()]),
            url => _ = git(&root, &["config", "remote.origin.url", url]),
        }
        let result = world.snapshot(&OPTIONS);
        traps.assert_none_ran();
        assert!(matches!(result, Err(WorkspaceError::PartialClone)), "{url}: {result:?}");
    }
}

/// Returns the files below `root` with their contents, and what links lead to.
fn all_files(root: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut all = std::collections::BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let content = match fs::symlink_metadata(&path).unwrap() {
                meta if meta.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                meta if meta.is_file() => fs::read(&path).unwrap(),
                _ => {
                    dirs.push(path.clone());
                    Vec::new()
                }
            };
            all.insert(path, content);
        }
    }
    all
}

/// Moves `name` of `.git` to `target`, and puts a link in its place.
fn replace_by_link(world: &World, name: &str, target: &Path) {
    let path = world.host().join(".git").join(name);
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    if path.exists() {
        fs::rename(&path, target).unwrap();
    } else {
        fs::create_dir_all(target).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    symlink(target, path).unwrap();
}

#[test]
fn a_pull_writes_nothing_outside_the_repository() {
    let mut ids: Vec<_> = (0..256).map(|id| format!("objects/{id:02x}")).collect();
    let outside_names = [
        "objects",
        "objects/pack",
        "refs",
        "refs/banger",
        "refs/banger/box",
        "refs/banger/box/heads",
        "logs",
        "logs/refs",
        "logs/refs/banger",
        "logs/refs/banger/box",
        "logs/HEAD",
        "logs/refs/banger/box/HEAD",
        "packed-refs",
    ];
    for name in outside_names.into_iter().chain(["objects/*"]) {
        let world = world();
        let mut record = world.send(&OPTIONS).unwrap();
        git(&world.guest(), &["add", "-A"]);
        git(
            &world.guest(),
            &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "in the guest"],
        );
        git(&world.host(), &["pack-refs", "--all"]);
        let outside = world.path("outside");
        let leads_to = |name: &str| outside.join(format!("x-{}", name.replace('/', "-")));
        fs::create_dir_all(&outside).unwrap();
        match name {
            "objects/*" => {
                for name in ids.drain(..) {
                    replace_by_link(&world, &name, &leads_to(&name));
                }
            }
            "logs/HEAD" | "logs/refs/banger/box/HEAD" => {
                // Reflogs name the committer, who could be a command.
                git(&world.host(), &["symbolic-ref", "HEAD", "refs/banger/box/HEAD"]);
                git(&world.host(), &["config", "user.name", "x;touch ran;x"]);
                let path = world.host().join(".git").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let _ = fs::remove_file(&path);
                fs::write(leads_to(name), "the user's shell settings\n").unwrap();
                symlink(leads_to(name), path).unwrap();
            }
            name => replace_by_link(&world, name, &leads_to(name)),
        }
        let before = all_files(&outside);
        let result = world.pull(&mut record);
        assert!(matches!(&result, Err(WorkspaceError::Foreign { .. })), "{name}: {result:?}");
        assert_eq!(all_files(&outside), before, "{name}");
    }
}

/// Other tools share these directories between working trees.
#[test]
fn linked_parts_of_a_repository_are_used() {
    for name in ["objects", "refs", "logs", "packed-refs"] {
        let world = world();
        git(&world.host(), &["pack-refs", "--all"]);
        let mut record = world.send(&OPTIONS).unwrap();
        replace_by_link(&world, name, &world.path("projects/x.git").join(name));
        write(&world.guest(), "new", "new");
        assert_eq!(world.pull(&mut record).unwrap().refs.len(), 2, "{name}");
        git(&world.host(), &["fsck", "--strict"]);
    }
}

/// A pull changes none of the user's branches, even if its own refs are names for them.
#[test]
fn a_pull_replaces_symbolic_refs() {
    let world = world();
    let mut record = world.send(&OPTIONS).unwrap();
    let main = git(&world.host(), &["rev-parse", "main"]);
    for name in ["HEAD", "uncommitted"] {
        git(&world.host(), &["symbolic-ref", &format!("refs/banger/box/{name}"), "refs/heads/main"]);
    }
    write(&world.guest(), "new", "new");
    world.pull(&mut record).unwrap();
    assert_eq!(git(&world.host(), &["rev-parse", "main"]), main);
    assert_ne!(git(&world.host(), &["rev-parse", "refs/banger/box/uncommitted"]), main);
}

/// A directory that names the user's private repository as its own gives no access to it.
#[test]
fn a_hostile_directory_exposes_no_other_repository() {
    let world = world();
    let root = world.host().canonicalize().unwrap();
    let find = |dir: &Path| Repository::find(&Git::find().unwrap(), dir);
    let assert_foreign = |dir: &Path| {
        let error = find(dir).unwrap_err();
        #[rustfmt::skip]
        let foreign = matches!(
            error,
            // git itself refuses some of them.
            WorkspaceError::Foreign { .. } | WorkspaceError::ForeignWorkTree(_) | WorkspaceError::NoRepository(_)
        );
        assert!(foreign, "{}: {error}", dir.display());
    };
    git(&root, &["worktree", "add", "-q", "--detach", "../tree"]);
    let tree = root.parent().unwrap().join("tree");
    let private = World::new();
    private.write("secret", "secret");
    private.commit_all("secret");
    git(&root, &["submodule", "--quiet", "add", private.host().to_str().unwrap(), "sub"]);
    assert!(find(&root).is_ok() && find(&tree).is_ok() && find(&root.join("sub")).is_ok());

    for (name, git_dir) in [
        ("file", root.join(".git")),
        ("worktree", root.join(".git/worktrees/tree")),
        ("submodule", root.join(".git/modules/sub")),
    ] {
        let dir = world.path(name);
        write(&dir, ".git", format!("gitdir: {}\n", git_dir.display()));
        assert_foreign(&dir);
        fs::remove_file(dir.join(".git")).unwrap();
        symlink(&git_dir, dir.join(".git")).unwrap();
        assert_foreign(&dir);
    }
    // A copy of its `.git` directory with parts that lead to the other.
    for parts in [
        &["commondir"][..],
        &["refs", "objects"],
        &["refs/heads", "objects"],
        &["refs/heads/main", "objects"],
        &["HEAD", "objects"],
    ] {
        let dir = World::new();
        dir.write("x", "x");
        dir.commit_all("x");
        let git_dir = dir.host().join(".git");
        for part in parts {
            if *part == "commondir" {
                write(&git_dir, part, root.join(".git").display().to_string());
                continue;
            }
            let _ = fs::remove_file(git_dir.join(part)).or_else(|_| fs::remove_dir_all(git_dir.join(part)));
            symlink(root.join(".git").join(part), git_dir.join(part)).unwrap();
        }
        assert_foreign(&dir.host());
    }
    // From 2.54 on, git accepts this.
    let dir = World::new();
    git(&dir.host(), &["config", "core.repositoryFormatVersion", "1"]);
    git(&dir.host(), &["config", "extensions.refStorage", &format!("files://{}/.git", root.display())]);
    assert!(find(&dir.host()).is_err());

    // A moved working tree is another's until git has repaired it.
    let moved = world.path("moved");
    fs::rename(&tree, &moved).unwrap();
    assert_foreign(&moved);
    git(&root, &["worktree", "repair", moved.to_str().unwrap()]);
    assert!(find(&moved).is_ok());
}
