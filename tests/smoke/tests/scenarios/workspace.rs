//! Workspaces: a repository is sent to a VM unchanged, and its changes come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Finished, Host, Running, Terminal, in_lab, scenario, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Number of repositories for the round trip.
const ROUND_TRIPS: u64 = 10;

/// Number in the lab, where the workspace's own code is the same.
const ROUND_TRIPS_IN_LAB: u64 = 3;

#[rustfmt::skip]
const RUN: &[&str] = &[
    "vm", "run", "-d", "--name", "box", "--vcpu", "1", "--memory", "256M", "--disk-size", "256M", "--image",
];

/// Runs git on the host, without global configuration.
fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.current_dir(dir).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null");
    Running::start(command, format!("git {}", args.join(" ")))?.finish(b"")?.success()
}

/// Creates a repository with a commit in the host's directory.
fn repository(host: &Host) -> Result<PathBuf> {
    let root = host.path("repo");
    fs::create_dir(&root)?;
    git(&root, &["init", "-q", "-b", "main"])?;
    git(&root, &["config", "user.name", "A U Thor"])?;
    git(&root, &["config", "user.email", "author@example.com"])?;
    fs::write(root.join("README.md"), "a readme\n")?;
    fs::create_dir(root.join("src"))?;
    fs::write(root.join("src/main.c"), "int main;\n")?;
    git(&root, &["add", "-A"])?;
    git(&root, &["commit", "-qm", "first"])?;
    Ok(root)
}

/// Runs `banger` in the repository.
fn run_in(host: &Host, root: &Path, args: &[&str]) -> Result<Finished> {
    start_in(host, root, args)?.finish(b"")
}

fn start_in(host: &Host, root: &Path, args: &[&str]) -> Result<Running> {
    let mut command = host.command(args);
    command.current_dir(root);
    Running::start(command, format!("banger {}", args.join(" ")))
}

/// Returns everything in a repository that banger must not change: refs, files, status and index.
fn user_state(root: &Path) -> Result<impl PartialEq + std::fmt::Debug + use<>> {
    let refs = git(root, &["for-each-ref", "refs/heads", "refs/remotes", "refs/tags"])?;
    Ok((refs, tree(root)?, git(root, &["status", "--porcelain=v2"])?, git(root, &["ls-files", "-s"])?))
}

/// Returns every file and link outside `.git` by path: its kind, whether it is executable, and its content.
fn tree(root: &Path) -> Result<BTreeMap<PathBuf, (char, Vec<u8>)>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(root)?.to_owned();
            if meta.is_dir() {
                if !path.ends_with(".git") {
                    dirs.push(path);
                }
            } else if meta.is_symlink() {
                all.insert(name, ('l', fs::read_link(&path)?.as_os_str().as_bytes().to_vec()));
            } else {
                let kind = if meta.permissions().mode() & 0o100 != 0 { 'x' } else { 'f' };
                all.insert(name, (kind, fs::read(&path)?));
            }
        }
    }
    Ok(all)
}

/// Random numbers that are the same in every run (xorshift64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}

/// File names for single quotes in a shell script. Each is a file at times, and some are directories at others.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "a", "b", "dir", "dir/c", "dir/d", "dir/sub/e", "-x", "a\nb", "\"q\"", "é", "A", " s ", "x.log", "dir/x.log",
    "dir/.gitignore", "$HOME", "*", "tab\t", ".dot", "dir/-n",
];

/// Start of every script: a function that makes room for a file, whatever exists at its path.
const ROOM: &str = r#"
    room() {
        dir=${1%/*}
        while [ "$dir" != . ]; do
            if [ -L "$dir" ] || [ ! -d "$dir" ]; then rm -f "$dir" 2>/dev/null || true; fi
            dir=${dir%/*}
        done
        mkdir -p "${1%/*}"
        rm -rf "$1"
    }
"#;

/// Returns a shell script that makes random changes in a repository.
fn random_changes(rng: &mut Rng, steps: usize, commits: bool) -> String {
    let mut script = format!("set -e\n{ROOM}");
    for _ in 0..steps {
        let name = format!("'./{}'", NAMES[rng.below(NAMES.len())]);
        let number = rng.below(1000);
        script.push_str(&match rng.below(if commits { 12 } else { 10 }) {
            0..=3 => format!("room {name}; seq {number} > {name}\n"),
            4 => format!("room {name}; printf '\\000\\377 {number}' > {name}\n"),
            5 | 6 => format!("if [ -e {name} ] && [ ! -d {name} ]; then rm -f {name}; fi\n"),
            7 => format!("if [ -f {name} ] && [ ! -L {name} ]; then chmod +x {name}; fi\n"),
            8 => format!("room {name}; ln -s nowhere-{number} {name}\n"),
            9 => format!("if [ -f {name} ]; then room ./moved-{number}; mv {name} ./moved-{number}; fi\n"),
            10 => "git add -A\n".to_owned(),
            _ => "git add -A; git commit -q --allow-empty -m step\n".to_owned(),
        });
    }
    script
}

/// Returns the files of a tree that git does not ignore.
fn unignored_files(root: &Path) -> Result<BTreeMap<PathBuf, (char, Vec<u8>)>> {
    let listed = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()?;
    let listed: BTreeSet<_> = listed.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut all = tree(root)?;
    all.retain(|path, _| listed.contains(path.as_os_str().as_bytes()));
    Ok(all)
}

/// Sends a repository, changes and commits at random in the guest, and gets the work back: the files are the same,
/// and the user's own are unchanged.
#[scenario(Here, LabMore, Slow)]
fn random_changes_survive_a_round_trip_through_a_guest() -> Result<()> {
    let trips = if in_lab() { ROUND_TRIPS_IN_LAB } else { ROUND_TRIPS };
    let host = Host::with_git()?;
    host.ok(&[RUN, &["git"]].concat())?;
    for seed in 1..=trips {
        round_trip(&host, seed).with_context(|| format!("the repository of seed {seed}"))?;
    }
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}

fn round_trip(host: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let root = host.path(&format!("repo-{seed}"));
    fs::create_dir(&root)?;
    git(&root, &["init", "-q", "-b", "main"])?;
    git(&root, &["config", "user.name", "A U Thor"])?;
    git(&root, &["config", "user.email", "author@example.com"])?;
    fs::write(root.join(".gitignore"), "*.log\n")?;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff")), "odd")?;
    let script = random_changes(&mut rng, 25, true) + "git add -A; git commit -q --allow-empty -m last\n";
    sh(&root, &script)?;
    sh(&root, &random_changes(&mut rng, 12, false))?;

    let guest = format!("/root/{seed}");
    let guest_path = ["--guest-path", &guest];
    run_in(
        host,
        &root,
        &[&["vm", "workspace", "prepare", "box", ".", "--include-untracked"], &guest_path[..]].concat(),
    )?
    .success()?;
    let before = user_state(&root)?;
    let status = ["status", "--porcelain=v2", "-z"];
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "-w", &guest, "--", "sh", "-c", script]);
    let guest_status = in_guest("git fsck --strict >/dev/null && git status --porcelain=v2 -z")?;
    ensure!(
        guest_status == git(&root, &status)?,
        "git status in the guest: {guest_status:?}; on the host: {:?}",
        git(&root, &status)?
    );

    in_guest(&random_changes(&mut rng, 15, true))?;
    let patch = host.path("patch");
    let output = ["--output", patch.to_str().context("path")?];
    host.ok(&[&["vm", "workspace", "export", "box"], &guest_path[..], &output].concat())?;
    let clean = host.path(&format!("clean-{seed}"));
    git(&host.path("."), &["clone", "-q", root.to_str().context("path")?, clean.to_str().context("path")?])?;
    if fs::metadata(&patch)?.len() > 0 {
        git(&clean, &["apply", "--index", "--whitespace=nowarn", output[1]])?;
    }
    let copy = host.path(&format!("copy-{seed}"));
    host.ok(&["vm", "cp", &format!("box:{guest}"), copy.to_str().context("path")?])?;
    ensure!(tree(&clean)? == unignored_files(&copy)?, "the patched files differ from the guest's");

    host.ok(&[&["vm", "workspace", "pull", "box"], &guest_path[..]].concat())?;
    ensure!(user_state(&root)? == before, "the user's files or refs were changed");
    git(&root, &["fsck", "--strict"])?;
    let head = ["rev-parse", "refs/banger/box/HEAD"];
    ensure!(git(&root, &head)? == in_guest("git rev-parse HEAD")?, "the guest's commits were not pulled");
    Ok(())
}

fn sh(dir: &Path, script: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-c", script]);
    Running::start(command, "sh".to_owned())?.finish(b"")?.success()
}

#[scenario(Here)]
fn vm_run_rm_saves_commits_and_uncommitted_work_on_the_host() -> Result<()> {
    let host = Host::with_git()?;
    let root = repository(&host)?;
    fs::write(root.join(".git/info/exclude"), "target/\n")?;
    fs::write(root.join("src/main.c"), "int edited;\n")?;
    let before = user_state(&root)?;
    let run = ["vm", "run", "--rm", "--name", "box", "--image", "git", "--memory", "256M", "."];
    let script = "pwd; git status --porcelain; echo x >> README.md; git commit -qam x; echo y > new";
    let ran = run_in(&host, &root.join("src"), &[&run[..], &["--", "sh", "-c", script]].concat())?;
    ensure!(ran.stderr.contains("refs/banger/box/"), "it does not report the ref: {}", ran.stderr);
    assert_eq!(ran.success()?, "/root/repo\n M src/main.c\n");
    assert_eq!(user_state(&root)?, before);
    assert_eq!(git(&root, &["log", "--format=%s %an", "main..refs/banger/box/HEAD"])?, "x A U Thor\n");
    assert_eq!(git(&root, &["show", "refs/banger/box/uncommitted:new"])?, "y\n");
    // Nothing is saved if only ignored files have changed, or with `--discard`.
    git(&root, &["update-ref", "-d", "refs/banger/box/HEAD"])?;
    run_in(&host, &root, &[&run[..], &["--", "true"]].concat())?.success()?;
    let build = "mkdir target; echo built > target/out; git status >/dev/null";
    run_in(&host, &root, &[&run[..], &["--", "sh", "-c", build]].concat())?.success()?;
    run_in(&host, &root, &[&run[..], &["--discard", "--", "sh", "-c", "echo z > z"]].concat())?.success()?;
    assert!(git(&root, &["rev-parse", "--verify", "-q", "refs/banger/box/HEAD"]).is_err());
    // The exit status is the command's, even if work is saved.
    run_in(&host, &root, &[&run[..], &["--", "sh", "-c", "echo z > z; exit 7"]].concat())?.code(7)?;
    host.nothing_left()
}

#[scenario(Here)]
fn vm_run_rm_saves_stashes_tags_and_lost_commits_on_the_host() -> Result<()> {
    let host = Host::with_git()?;
    let root = repository(&host)?;
    let before = user_state(&root)?;
    let run = ["vm", "run", "--rm", "--name", "box", "--image", "git", "--memory", "256M", "."];
    let script = "echo one >> README.md; git stash -q; echo two >> README.md; git stash -q; \
                  git commit -q --allow-empty -m lost; git tag -a v1 -m v1; git reset -q --hard HEAD~1; \
                  git worktree add -q --detach ../other; echo there > ../other/new";
    let ran = run_in(&host, &root, &[&run[..], &["--", "sh", "-c", script]].concat())?;
    ensure!(ran.stderr.contains("refs/banger/box/stash/0"), "it does not report the ref: {}", ran.stderr);
    ran.success()?;
    assert_eq!(user_state(&root)?, before);
    let show = |name: &str| git(&root, &["show", &format!("refs/banger/box/{name}")]);
    assert_eq!(show("stash/0:README.md")?, "a readme\ntwo\n");
    assert_eq!(show("stash/1:README.md")?, "a readme\none\n");
    assert_eq!(git(&root, &["log", "-1", "--format=%s", "refs/banger/box/tags/v1"])?, "lost\n");
    assert_eq!(show("worktrees/other/uncommitted:new")?, "there\n");
    git(&root, &["fsck", "--strict"])?;
    // Work that cannot be read keeps the VM.
    let broken =
        "git commit -q --allow-empty -m broken; rm -r .git/objects/$(git rev-parse HEAD | cut -c1-2)";
    let ran = run_in(&host, &root, &[&run[..], &["--", "sh", "-c", broken]].concat())?;
    ran.fails(0, &["could not be saved", "VM box is kept"])?;
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    // So does a workspace that is elsewhere.
    let moved = "git commit -q --allow-empty -m moved; mv /root/repo /root/moved";
    let ran = run_in(&host, &root, &[&run[..], &["--", "sh", "-c", moved]].concat())?;
    ran.fails(0, &["the workspace at /root/repo was moved or deleted", "VM box is kept"])?;
    host.banger(&["vm", "delete", "--force", "box"])?.fails(1, &["was moved or deleted", "--discard"])?;
    host.ok(&["vm", "exec", "box", "--", "mv", "/root/moved", "/root/repo"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    assert_eq!(git(&root, &["log", "-1", "--format=%s", "refs/banger/box/HEAD"])?, "moved\n");
    host.nothing_left()
}

#[scenario(Here)]
fn prepare_sends_only_changes_and_never_overwrites_guest_work() -> Result<()> {
    let host = Host::tiny()?;
    let root = repository(&host)?;
    fs::write(root.join("untracked"), "untracked")?;
    git(&root, &["config", "remote.origin.url", "https://user:TOKEN@example.com/repo.git"])?;
    host.ok(&[RUN, &["tiny"]].concat())?;
    let prepare = ["vm", "workspace", "prepare", "box"];
    let plan: Value = serde_json::from_str(
        &run_in(&host, &root, &[&prepare[..], &[".", "--dry-run", "-o", "json"]].concat())?.success()?,
    )?;
    let files = json!([{ "path": "README.md", "size": 9 }, { "path": "src/main.c", "size": 10 }]);
    assert_eq!((&plan["files"], &plan["left_out"], &plan["branch"]), (&files, &json!(1), &json!("main")));
    let origin = (json!("https://example.com/repo.git"), json!(true));
    assert_eq!((&plan["origin"], &plan["origin_credentials"]), (&origin.0, &origin.1));
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script]);
    assert_eq!(in_guest("ls -A /root | grep -v lost || true")?, "", "a dry run creates nothing");

    // A guest without git also gets the files that git needs.
    let sent = run_in(&host, &root, &prepare)?;
    sent.fails(0, &["one untracked file was not sent", "2 files", "origin without the user name, password"])?;
    assert_eq!(in_guest("cat repo/README.md repo/.git/HEAD")?, "a readme\nref: refs/heads/main\n");
    assert_eq!(
        in_guest("grep -r TOKEN repo || grep url repo/.git/config")?,
        "\turl = \"https://example.com/repo.git\"\n"
    );
    run_in(&host, &root, &prepare)?.fails(0, &["is up to date"])?;
    fs::write(root.join("src/main.c"), "int edited;\n")?;
    fs::remove_file(root.join("README.md"))?;
    run_in(&host, &root, &prepare)?.fails(0, &["one file written, 1 removed"])?;
    assert_eq!(in_guest("cat repo/src/main.c; ls repo")?, "int edited;\nsrc\n");

    in_guest("echo mine > repo/src/main.c; echo new > repo/new")?;
    fs::write(root.join("src/main.c"), "int here;\n")?;
    run_in(&host, &root, &prepare)?.fails(1, &["src/main.c", "workspace pull box"])?;
    assert_eq!(in_guest("cat repo/src/main.c")?, "mine\n");
    let changes = host.json(&["vm", "workspace", "export", "box"])?;
    assert_eq!(
        changes,
        json!([
            { "change": "deleted", "path": "README.md" },
            { "change": "added", "path": "new" },
            { "change": "modified", "path": "src/main.c" },
        ])
    );

    // Deleting a VM saves its work. A stopped VM is started for that.
    host.ok(&["vm", "stop", "box"])?;
    host.banger(&["vm", "delete", "box"])?.fails(0, &["refs/banger/box/uncommitted"])?;
    assert_eq!(git(&root, &["show", "refs/banger/box/uncommitted:new"])?, "new\n");
    host.nothing_left()
}

#[scenario(Here)]
fn names_and_content_of_a_guests_files_do_not_control_the_terminal() -> Result<()> {
    let host = Host::tiny()?;
    let root = repository(&host)?;
    host.ok(&[RUN, &["tiny"]].concat())?;
    run_in(&host, &root, &["vm", "workspace", "prepare", "box"])?.success()?;
    let script = r"printf 'text\033[2J\n' > repo/$(printf 'name\033[2J\302\233\342\200\256')";
    host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script])?;
    let export = ["vm", "workspace", "export", "box"];
    let patch = host.ok(&export)?;
    ensure!(patch.contains("\n+text\x1b[2J\n"), "a pipe gets the patch exactly: {patch:?}");
    let changes = host.json(&export)?;
    assert_eq!(changes[0]["path"], "name\x1b[2J\u{9b}\u{202e}");
    let table = [&export[..], &["-o", "table"]].concat();
    let json = [&export[..], &["-o", "json"]].concat();
    for (arguments, expected) in [
        (&export[..], "+text^[[2J"),
        (&table, "name^[[2J<U+009B><U+202E>"),
        (&json, r"name\u001b[2J\u009b\u202e"),
    ] {
        // Progress on standard error moves the cursor.
        let mut command = host.tool("sh");
        command.args(["-c", r#"exec "$@" 2>/dev/null"#, "sh"]).arg(host.program("banger")).args(arguments);
        let mut terminal = Terminal::start(&command, 24, 200)?;
        let shown = terminal.wait_for(expected)?;
        ensure!(!shown.contains(['\x1b', '\u{9b}', '\u{202e}']), "{shown:?}");
        ensure!(terminal.wait()?.success(), "{arguments:?}");
    }
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn a_failed_or_interrupted_prepare_leaves_no_partial_files() -> Result<()> {
    let host = Host::tiny()?;
    let root = repository(&host)?;
    host.ok(&[RUN, &["tiny"]].concat())?;
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script]);
    let is_guest_empty = || Ok(in_guest("ls -A /root | grep -v lost || true")?.is_empty());
    let prepare = ["vm", "workspace", "prepare", "box", "--include-untracked"];
    // More than the disk has space for.
    let large = fs::File::create(root.join("large"))?;
    large.set_len(400 << 20)?;
    run_in(&host, &root, &prepare)?.fails(1, &["in VM box: the guest reports: cannot write", "space"])?;
    ensure!(is_guest_empty()?, "files are left: {}", in_guest("ls -laR /root")?);
    // Ctrl-C, and a killed client.
    large.set_len(200 << 20)?;
    for (signal, status) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut sending = start_in(&host, &root, &prepare)?;
        sending.wait_for_stderr("Sending the repository")?;
        sending.signal(signal)?;
        ensure!(sending.finish(b"")?.status.code() == status, "{signal:?}");
        until("no file is left in the guest", is_guest_empty)?;
    }
    // Two in parallel: one is refused, or runs after the other; the result is complete.
    large.set_len(20 << 20)?;
    let (one, two) = thread::scope(|scope| {
        let send = || run_in(&host, &root, &prepare);
        let (one, two) = (scope.spawn(send), scope.spawn(send));
        (one.join().unwrap(), two.join().unwrap())
    });
    let (succeeded, refused): (Vec<_>, Vec<_>) =
        [one?, two?].into_iter().partition(|run| run.status.success());
    ensure!(!succeeded.is_empty(), "neither succeeded: {refused:?}");
    for refused in refused {
        refused.fails(1, &["in VM box: "])?;
    }
    assert_eq!(
        in_guest("cat repo/README.md; wc -c < repo/large; ls -A /root | grep -v lost")?,
        "a readme\n20971520\nrepo\n"
    );
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn unsendable_repositories_are_rejected_before_a_vm_is_created() -> Result<()> {
    let host = Host::new()?;
    let run = |dir: &Path, arguments: &[&str]| {
        run_in(&host, dir, &[&["vm", "run", "--rm", "."], arguments, &["--", "true"]].concat())
    };
    // The host's own directory may be inside a repository.
    let outside = tempfile::tempdir()?;
    run(outside.path(), &[])?.fails(125, &["is not in a git repository", "git init"])?;
    let bare = host.path("bare");
    fs::create_dir(&bare)?;
    git(&bare, &["init", "-q", "--bare"])?;
    run(&bare, &[])?.fails(125, &["bare repository", "--mode full-copy"])?;
    let root = repository(&host)?;
    run(&root, &["--branch", "x", "--from", "nowhere"])?.fails(125, &["there is no commit nowhere"])?;
    run(&root, &["--branch", "a..b"])?.fails(125, &["a..b"])?;
    run(&root, &["--guest-path", "repo"])?.fails(2, &["absolute path"])?;
    let mut command = host.command(&["vm", "run", "."]);
    command.current_dir(&root).env("PATH", host.path("nowhere"));
    Running::start(command, "banger without git".to_owned())?
        .finish(b"")?
        .fails(125, &["git was not found", "install git"])?;
    let partial = host.path("partial");
    git(&root, &["config", "uploadpack.allowFilter", "true"])?;
    let url = format!("file://{}", root.display());
    let clone = ["clone", "-q", "--filter=blob:none", &url, partial.to_str().context("path")?];
    git(&root, &clone)?;
    run(&partial, &[])?.fails(125, &["it is a partial clone", "without `--filter`", "--mode full-copy"])?;
    git(&root, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./.", "sub"])?;
    run(&root, &[])?.fails(125, &["submodules: sub", "--mode full-copy"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn a_full_copy_includes_ignored_files_and_submodules() -> Result<()> {
    let host = Host::with_git()?;
    let root = repository(&host)?;
    git(&root, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./.", "sub"])?;
    git(&root, &["commit", "-qm", "with a submodule"])?;
    fs::write(root.join(".gitignore"), "ignored\n")?;
    fs::write(root.join("ignored"), "ignored")?;
    git(&root, &["config", "remote.origin.url", "https://TOKEN@example.com/repo.git"])?;
    let run = [
        "vm",
        "run",
        "-d",
        "--name",
        "box",
        "--image",
        "git",
        "--memory",
        "256M",
        "--mode",
        "full-copy",
        ".",
    ];
    run_in(&host, &root, &run)?
        .fails(0, &["includes the credentials in the repository's git configuration"])?;
    let in_guest =
        |script: &str| host.ok(&["vm", "exec", "box", "-w", "/root/repo", "--", "sh", "-c", script]);
    assert_eq!(
        in_guest("cat ignored sub/README.md && git status --porcelain")?,
        "ignoreda readme\n?? .gitignore\n"
    );
    in_guest("echo edited > README.md")?;
    let changes = host.json(&["vm", "workspace", "export", "box"])?;
    assert_eq!(
        changes,
        json!([{ "change": "added", "path": ".gitignore" }, { "change": "modified", "path": "README.md" }])
    );
    host.ok(&["vm", "delete", "--force", "--discard", "box"])?;
    host.nothing_left()
}

#[scenario(Here)]
fn synced_files_are_updated_at_each_start() -> Result<()> {
    let host = Host::tiny()?;
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path(".gitconfig"), "[user]\n\tname = a\n")?;
    let entries = "[[file_sync]]\nhost = '~/.gitconfig'\n[[file_sync]]\nhost = '~/none'\n";
    fs::write(host.path("config/banger/config.toml"), entries)?;
    let created = host.banger(&[RUN, &["tiny"]].concat())?;
    created.fails(0, &["none is not synced: No such file"])?;
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script]);
    assert_eq!(in_guest("cat /root/.gitconfig; stat -c %a /root/.gitconfig")?, "[user]\n\tname = a\n600\n");
    fs::write(host.path(".gitconfig"), "[user]\n\tname = b\n")?;
    host.ok(&["vm", "restart", "box"])?;
    assert_eq!(in_guest("cat /root/.gitconfig")?, "[user]\n\tname = b\n");
    let escape = "[[file_sync]]\nhost = '~/.gitconfig'\nguest = '/root/../etc/passwd'\n";
    fs::write(host.path("config/banger/config.toml"), escape)?;
    host.banger(&["vm", "run", "--rm", "--", "true"])?
        .fails(125, &["file_sync", "entry 1", "under /root"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.nothing_left()
}
