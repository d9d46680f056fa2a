//! Repositories whose configuration and files try to run programs on the host or to write outside.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use banger_workspace::{Git, Mode, Options, Repository, WorkspaceError};
use common::{OPTIONS, World, executable, git, write};

/// Runs the test `name` of this file again with each git as the `git` on PATH: all that are installed, and each of them
/// behind a program that removes the variable which git knows from 2.45 on and runs configured hooks, as git does from
/// 2.54 on.
fn with_each_git(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = env::var_os("PATH").unwrap();
    let mut gits: Vec<_> =
        env::split_paths(&path).filter_map(|dir| dir.join("git").canonicalize().ok()).collect();
    gits.sort();
    gits.dedup();
    for (number, program) in gits.iter().enumerate() {
        for (kind, unset) in [("old", "unset GIT_NO_LAZY_FETCH"), ("same", "")] {
            let bin = dir.path().join(format!("{number}-{kind}"));
            let script = format!(
                r#"#!/bin/sh
git={}
{unset}
hooks() {{
    "$git" "$@" config --name-only --get-regexp '^hook\..*\.command$' | while read -r key; do
        [ "$("$git" "$@" config --type=bool "${{key%.command}}.enabled")" = false ] ||
            sh -c "$("$git" "$@" config "$key")"
    done
}}
count=0 options=
for argument in "$@"; do
    count=$((count + 1))
    [ "$argument" != update-ref ] || eval "hooks $options"
    options="$options \"\${{$count}}\""
done
exec "$git" "$@"
"#,
                program.display()
            );
            write(&bin, "git", script);
            executable(&bin.join("git"));
            let all = env::join_paths([bin].into_iter().chain(env::split_paths(&path))).unwrap();
            let test = Command::new(env::current_exe().unwrap())
                .args([name, "--exact", "--ignored", "--nocapture"])
                .env("PATH", all)
                .output()
                .unwrap();
            let (out, err) = (String::from_utf8_lossy(&test.stdout), String::from_utf8_lossy(&test.stderr));
            assert!(out.contains("1 passed"), "{} ({kind}): {out}{err}", program.display());
        }
    }
}

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
        let error = Repository::find(&Git::find().unwrap(), &root).unwrap_err();
        traps.assert_none_ran();
        assert!(matches!(error, WorkspaceError::PartialClone), "{url}: {error}");
    }
}
