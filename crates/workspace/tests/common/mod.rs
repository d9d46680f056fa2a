//! Repositories created by git, and a directory that represents the guest's. The tests call the agent's functions
//! directly.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses some of it

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use banger_files::{FileRequest, PathWriter, Time, Tree, Unpacked, change, list, place};
use banger_workspace::{
    Budget, Changes, Git, GitState, Guest, GuestGit, Mode, Options, Pulled, Record, Records, Repository,
    Snapshot, Upload, Work, WorkspaceError, Worktree, Worktrees, fetch_refs, read_files, read_git_listing,
    read_listing,
};

/// Directories for a host and a guest.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

pub(crate) const OPTIONS: Options =
    Options { mode: Mode::Shallow, depth: 10, include_untracked: false, branch: None, from: None };

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.host()).unwrap();
        git(&world.host(), &["init", "-q", "-b", "main"]);
        git(&world.host(), &["config", "user.name", "A U Thor"]);
        git(&world.host(), &["config", "user.email", "author@example.com"]);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.path("host/repo")
    }

    pub(crate) fn guest(&self) -> PathBuf {
        self.path("guest/repo")
    }

    pub(crate) fn records(&self) -> Records {
        Records::new(self.path("state/workspaces"))
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.host(), name, content);
    }

    pub(crate) fn commit_all(&self, message: &str) {
        git(&self.host(), &["add", "-A"]);
        git(&self.host(), &["commit", "-q", "--allow-empty", "-m", message]);
    }

    pub(crate) fn snapshot(&self, options: &Options) -> Result<Snapshot, WorkspaceError> {
        self.snapshot_of(&self.host(), options)
    }

    pub(crate) fn snapshot_of(&self, root: &Path, options: &Options) -> Result<Snapshot, WorkspaceError> {
        let repository = Repository::find(&Git::find()?, root)?;
        Snapshot::take(repository, options, &self.cache())
    }

    /// Sends the host's repository to an empty place.
    pub(crate) fn send(&self, options: &Options) -> Result<Record, WorkspaceError> {
        self.send_all(self.snapshot(options)?)
    }

    pub(crate) fn send_all(&self, snapshot: Snapshot) -> Result<Record, WorkspaceError> {
        let upload = Upload::full(snapshot, b"/root/repo");
        let mut stream = Vec::new();
        let sent = upload.write(&mut stream)?;
        place(&*stream, &self.guest(), &mut Unpacked::default()).unwrap();
        Ok(sent.into_record(time_of_placing()))
    }

    /// Sends the changes since `record`. Also returns the number of bytes sent.
    pub(crate) fn send_again(
        &self,
        record: Record,
        options: &Options,
    ) -> Result<(Record, usize), WorkspaceError> {
        let listed = self.listing()?;
        let unchanged = record.clone();
        let snapshot = self.snapshot(options)?;
        let git_files = Upload::changed_git_files(&snapshot, &record, &listed);
        let git_files = read_files(&*fetched(&self.guest(), &git_files), git_files)?;
        let Some(upload) = Upload::changes(snapshot, record, &listed, &git_files)? else {
            return Ok((unchanged, 0));
        };
        let mut stream = Vec::new();
        let sent = upload.write(&mut stream)?;
        change(&*stream, &self.guest(), &mut Unpacked::default()).unwrap();
        Ok((sent.into_record(time_of_placing()), stream.len()))
    }

    /// Sends only the host's commits.
    pub(crate) fn push(&self, record: Record) -> Result<Option<Record>, WorkspaceError> {
        let snapshot = self.snapshot(&Options { mode: Mode::Metadata, ..OPTIONS })?;
        let Some(upload) = Upload::commits(snapshot, record)? else { return Ok(None) };
        let mut stream = Vec::new();
        let sent = upload.write(&mut stream)?;
        change(&*stream, &self.guest(), &mut Unpacked::default()).unwrap();
        Ok(Some(sent.into_record(time_of_placing())))
    }

    pub(crate) fn listing(&self) -> Result<Vec<banger_files::ListedFile>, WorkspaceError> {
        read_listing(&*listed(&self.guest()))
    }

    pub(crate) fn repository(&self) -> Result<Repository, WorkspaceError> {
        Repository::find(&Git::find().unwrap(), &self.host())
    }

    /// Returns all changes in the guest since `record`.
    pub(crate) fn changes(&self, record: &Record) -> Result<Changes, WorkspaceError> {
        let guest = Guest::new(
            &self.repository()?,
            record.clone(),
            self.listing()?,
            &self.cache(),
            &Budget::default(),
        )?;
        let (guest, request) = with_rules(guest, &self.guest())?;
        guest.into_changes(&*fetched(&self.guest(), &request), request)
    }

    /// Returns how the tests reach the guest's git, as `banger vm exec box --` would. Only its directory differs.
    pub(crate) fn guest_git(&self) -> GuestGit {
        let script = format!(
            r#"export GIT_PROTOCOL=version=2
            for word; do
                shift
                case $word in
                    /root/repo*) word={0}${{word#/root/repo}} ;;
                    --git-dir=/root/repo*) word=--git-dir={0}${{word#--git-dir=/root/repo}} ;;
                esac
                set -- "$@" "$word"
            done
            exec "$@""#,
            self.guest().display()
        );
        GuestGit(["sh", "-c", &script, "-"].map(Into::into).to_vec())
    }

    /// Lists the guest's repository.
    pub(crate) fn git_state(&self) -> Result<GitState, WorkspaceError> {
        read_git_listing(&*listed(&self.guest().join(".git")))
    }

    /// Pulls the work in the guest into the host's repository, as from a VM `box`.
    pub(crate) fn pull(&self, record: &mut Record) -> Result<Pulled, WorkspaceError> {
        self.pull_through(record, &Budget::default(), &self.guest_git())
    }

    pub(crate) fn pull_through(
        &self,
        record: &mut Record,
        budget: &Budget,
        guest_git: &GuestGit,
    ) -> Result<Pulled, WorkspaceError> {
        let pulled = self.with_work(record, budget, guest_git, |work| work.store())?;
        let records = self.records().try_lock("box")?.unwrap();
        records.complete(record)?;
        records.set_pulled(record.guest_path(), &pulled)?;
        *record = records.find(record.guest_path())?.unwrap();
        Ok(pulled)
    }

    /// Returns whether a deletion of the VM would lose work.
    pub(crate) fn has_work(&self, record: &Record) -> bool {
        let has_work = |work: Work<'_>| Ok(work.has_work());
        self.with_work(record, &Budget::default(), &self.guest_git(), has_work).unwrap()
    }

    fn with_work<T>(
        &self,
        record: &Record,
        budget: &Budget,
        guest_git: &GuestGit,
        use_work: impl FnOnce(Work<'_>) -> Result<T, WorkspaceError>,
    ) -> Result<T, WorkspaceError> {
        let (repository, git_dir) = (self.repository()?, self.guest().join(".git"));
        let mut state = self.git_state()?;
        let guest = Guest::new(&repository, record.clone(), self.listing()?, &self.cache(), budget)?;
        let (guest, request) = with_rules(guest, &self.guest())?;
        let mut refs = None;
        if guest.needs_objects() || !state.is_as_sent(record) {
            let files = state.files();
            state.set_files(read_files(&*fetched(&git_dir, &files), files)?);
            refs = Some(fetch_refs(&guest, &state, b"/root/repo/.git", guest_git)?);
        }
        let changes = guest.into_changes(&*fetched(&self.guest(), &request), request)?;
        let mut worktrees = Worktrees::new();
        for tree in refs.iter().flat_map(|refs| Worktree::all(refs, &state, b"/root/repo/.git")) {
            let path = PathBuf::from(OsStr::from_bytes(tree.path()));
            let listed = path.exists().then(|| read_listing(&*listed(&path))).transpose()?;
            let Some(listed) = listed.filter(|listed| Worktree::is_in(listed)) else { continue };
            let request = tree.index_file();
            let index = read_files(&*fetched(&git_dir, &request), request)?.into_values().next();
            let name = tree.name().to_owned();
            let guest = tree.into_guest(&repository, &changes, &state, index, listed)?;
            let (guest, request) = with_rules(guest, &path)?;
            worktrees.push((name, guest.into_changes(&*fetched(&path, &request), request)?));
        }
        use_work(Work::collect(&repository, "box", &changes, refs.as_ref(), &worktrees)?)
    }
}

/// Gives `guest` its ignore files and index, and returns the files to fetch next.
fn with_rules(mut guest: Guest, dir: &Path) -> Result<(Guest, FileRequest), WorkspaceError> {
    let request = guest.rule_files()?;
    let rules = read_files(&*fetched(dir, &request), request)?;
    let request = guest.files_to_fetch(rules)?;
    Ok((guest, request))
}

/// Lists a directory as the agent would.
fn listed(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    list(fs::File::open(dir).unwrap(), &mut bytes).unwrap();
    bytes
}

/// Packs these files as the agent would send them.
fn fetched(dir: &Path, request: &FileRequest) -> Vec<u8> {
    let tree = Tree::open(dir).unwrap();
    let mut out = PathWriter::new(Vec::new()).unwrap();
    for path in request.paths() {
        let stat = tree.stat(path).unwrap().unwrap();
        match tree.link(path) {
            Ok(target) => out.link(path, stat.modified, target).unwrap(),
            Err(_) => {
                let (mut file, stat) = tree.file(path).unwrap();
                out.file(path, stat.mode, stat.modified, &mut file).unwrap().unwrap();
            }
        }
    }
    out.finish().unwrap()
}

/// Returns a time, and waits until later changes have a later one.
pub(crate) fn time_of_placing() -> Time {
    let now = Time::now();
    // Longer than the tick of the clock that stamps files.
    sleep(Duration::from_millis(15));
    now
}

pub(crate) fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(crate) fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs git as its user would, and returns its output.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = git_output(dir, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn git_output(dir: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new("git")
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args([
            "-c",
            "protocol.file.allow=always",
            "-c",
            "user.name=A U Thor",
            "-c",
            "user.email=author@example.com",
        ])
        .args(arguments)
        .output()
        .unwrap()
}

/// Returns every file and link except git's own: kind, whether it is executable, and content, by path.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, (char, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if meta.is_dir() {
                if path.file_name().unwrap() != ".git" {
                    dirs.push(path);
                }
            } else if meta.is_symlink() {
                all.insert(name, ('l', fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()));
            } else {
                let kind = if meta.permissions().mode() & 0o100 != 0 { 'x' } else { 'f' };
                all.insert(name, (kind, fs::read(&path).unwrap()));
            }
        }
    }
    all
}

/// Runs the test `name` of this file again with each git as the `git` on PATH: all that are installed, and each of them
/// behind a program that removes the variable which git knows from 2.45 on and runs configured hooks, as git does from
/// 2.54 on.
pub(crate) fn with_each_git(name: &str) {
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
            run_with_git(&bin, name);
        }
    }
}

/// Runs the ignored test `name` of this file again, with the program `git` in `dir` as the first on PATH.
pub(crate) fn run_with_git(dir: &Path, name: &str) {
    executable(&dir.join("git"));
    let path = env::var_os("PATH").unwrap();
    let path = env::join_paths([dir.to_owned()].into_iter().chain(env::split_paths(&path))).unwrap();
    let test = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env("PATH", path)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&test.stdout), String::from_utf8_lossy(&test.stderr));
    assert!(out.contains("1 passed"), "with {}: {out}{err}", dir.display());
}
