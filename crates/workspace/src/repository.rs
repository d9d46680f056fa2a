//! A repository on the host: its directories, what is checked out, and its configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    WorkspaceError,
    error::reading,
    git::{Git, GitCommand, GitError, read_file, run, unexpected_output},
    parts,
    url::{has_credentials, without_credentials},
};

const ORIGIN_URL: &str = "remote.origin.url";

/// A git repository with a working tree.
#[derive(Debug)]
pub struct Repository {
    pub(crate) git: Git,
    /// The root directory of the working tree.
    pub(crate) root: PathBuf,
    /// The git directory of this working tree: `HEAD` and the index.
    pub(crate) git_dir: PathBuf,
    /// The git directory that all its working trees share: objects and refs.
    pub(crate) common_dir: PathBuf,
    /// The checked-out commit; `None` before the first one.
    pub(crate) head: Option<String>,
    /// The tree of that commit.
    pub(crate) tree: Option<String>,
    /// The checked-out branch, such as `refs/heads/main`; `None` if `HEAD` is detached.
    pub(crate) branch: Option<String>,
    pub(crate) config: Config,
}

/// git's configuration, with the last value of each key. Keys are as in `git config --list`.
#[derive(Debug, Default)]
pub(crate) struct Config {
    values: BTreeMap<String, Vec<u8>>,
}

impl Config {
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// Returns whether a remote has promised to keep objects that are missing here.
    fn is_partial_clone(&self) -> bool {
        self.values.iter().any(|(key, value)| match key.strip_prefix("remote.") {
            Some(key) if key.ends_with(".promisor") => !is_false(value),
            Some(key) => key.ends_with(".partialclonefilter"),
            // Before 2.24, git marked partial clones with this key.
            None => key == "extensions.partialclone",
        })
    }

    /// Returns the names of the configured hooks, which git runs from 2.54 on.
    fn hooks(&self) -> BTreeSet<&str> {
        let keys = self.values.keys().filter_map(|key| key.strip_prefix("hook."));
        keys.filter_map(|key| Some(key.rsplit_once('.')?.0)).collect()
    }

    fn parse(listed: &[u8]) -> Self {
        let mut values = BTreeMap::new();
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let (key, value) = match entry.iter().position(|byte| *byte == b'\n') {
                Some(end) => (entry.get(..end).unwrap_or_default(), entry.get(end + 1..).unwrap_or_default()),
                // A key without a value means true.
                None => (entry, &b"true"[..]),
            };
            values.insert(String::from_utf8_lossy(key).into_owned(), value.to_vec());
        }
        Self { values }
    }
}

impl Repository {
    /// Finds the repository that contains `path`.
    ///
    /// # Errors
    /// Returns an error if there is none, or if it cannot be sent.
    pub fn find(git: &Git, path: &Path) -> Result<Self, WorkspaceError> {
        let dir = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => WorkspaceError::NoDirectory(path.to_owned()),
            _ => reading(path)(error),
        })?;
        let dir = if dir.is_dir() { dir } else { dir.parent().unwrap_or(&dir).to_owned() };
        let others: Vec<_> = dir.ancestors().filter(|root| parts::is_other_work_tree(root)).collect();
        let query = |arguments: &[&str]| run_in(git, &dir, arguments);
        let (version, paths, config, head) = thread::scope(|scope| {
            let version = scope.spawn(|| git.version());
            let head = scope.spawn(|| query(&["rev-parse", "--revs-only", "HEAD^{commit}", "HEAD^{tree}"]));
            let config = scope.spawn(|| query(&["config", "--list", "-z", "--includes"]));
            let panicked = |_| Err(unexpected_output("rev-parse", "nothing"));
            let paths = paths(git, &dir);
            let version = version.join().unwrap_or_else(|_| Err(unexpected_output("version", "nothing")));
            (version, paths, config.join().unwrap_or_else(panicked), head.join().unwrap_or_else(panicked))
        });
        // Before the others: a git that is too old fails or gives other answers.
        version?;
        let (root, git_dir, common_dir) = paths?;
        if !dir.starts_with(&root) || !belongs_to(&root, &git_dir) {
            return Err(WorkspaceError::ForeignWorkTree(root));
        }
        if others.contains(&&*root) {
            return Err(parts::foreign(root.join(".git"), &git_dir));
        }
        let config = Config::parse(&config?);
        parts::check_git_dirs(&root, &git_dir, &common_dir, config.get("core.worktree").is_some())?;
        if let Some(storage) = config.get("extensions.refstorage").filter(|value| value.contains(&b':')) {
            return Err(parts::foreign("extensions.refStorage", Path::new(OsStr::from_bytes(storage))));
        }
        // The commit itself can be missing.
        let head = head.map_err(|error| match config.is_partial_clone() {
            true => WorkspaceError::PartialClone,
            false => error.into(),
        })?;
        let head = text(&head)?;
        // The output is empty before the first commit.
        let (head, tree) = match head.split_once('\n') {
            Some((head, tree)) => (Some(object_id(head.as_bytes())?), Some(object_id(tree.as_bytes())?)),
            None => (None, None),
        };
        let branch = branch(git, &root, &git_dir)?;
        parts::check(&git_dir, &["HEAD", "logs/HEAD"])?;
        parts::check(&common_dir, &branch.as_deref().map_or(vec![], |name| vec![name]))?;
        Ok(Self { git: git.clone(), root, git_dir, common_dir, head, tree, branch, config })
    }

    /// Checks that everything which a pull writes is within the repository.
    pub(crate) fn check_writable_parts(&self) -> Result<(), WorkspaceError> {
        let common_dir = &self.common_dir;
        parts::check(common_dir, &["refs/banger", "logs/refs/banger"])?;
        parts::check_entries(common_dir, "refs/banger", true)?;
        parts::check_entries(common_dir, "logs/refs/banger", true)?;
        parts::check_entries(common_dir, "reftable", false)?;
        parts::check_entries(common_dir, "objects", false)
    }

    /// Returns whether the configuration marks the repository as a partial clone.
    pub(crate) fn is_partial_clone(&self) -> bool {
        self.config.is_partial_clone()
    }

    /// Returns whether a pack refers to objects that may be missing, as those of partial clones do.
    pub(crate) fn has_promisor_packs(&self) -> Result<bool, WorkspaceError> {
        let dir = self.common_dir.join("objects/pack");
        let mut names = match fs::read_dir(&dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(reading(dir)(error)),
        };
        Ok(names.any(|name| name.as_bytes().ends_with(b".promisor")))
    }

    /// Returns the root directory of the working tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the checked-out commit.
    pub fn head(&self) -> Option<&str> {
        self.head.as_deref()
    }

    /// Returns the checked-out branch, without `refs/heads/`.
    pub fn branch(&self) -> Option<&str> {
        self.branch.as_deref().map(|name| name.strip_prefix("refs/heads/").unwrap_or(name))
    }

    /// Returns the name of its directory, to name the guest's.
    pub fn name(&self) -> &OsStr {
        self.root.file_name().unwrap_or(OsStr::new("repo"))
    }

    /// Returns a git command that runs in the repository. Its configuration applies, except hooks and monitors.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> GitCommand {
        let mut command = self.git.command(arguments);
        command.current_dir(&self.root);
        let hooks = self.config.hooks();
        command.env("GIT_CONFIG_COUNT", hooks.len().to_string());
        for (index, name) in hooks.into_iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{index}"), format!("hook.{name}.enabled"))
                .env(format!("GIT_CONFIG_VALUE_{index}"), "false");
        }
        command
    }

    /// Returns the URL of the remote `origin` without credentials, as a guest gets it.
    pub fn origin(&self) -> Option<Vec<u8>> {
        self.config.get(ORIGIN_URL).map(without_credentials)
    }

    /// Returns whether the URL of `origin` has credentials, which are not sent.
    pub fn has_origin_credentials(&self) -> bool {
        self.origin().as_deref() != self.config.get(ORIGIN_URL)
    }

    /// Returns whether a copy of the working tree's directory has credentials, in the repository's configuration.
    ///
    /// # Errors
    /// Returns an error if that cannot be read.
    pub fn has_credentials(&self) -> Result<bool, WorkspaceError> {
        if !self.common_dir.starts_with(&self.root) {
            return Ok(false);
        }
        let path = self.common_dir.join("config");
        Ok(has_credentials(&read_file(&path).map_err(reading(path))?.unwrap_or_default()))
    }

    /// Returns the length of an object id, in bytes.
    pub(crate) fn id_length(&self) -> usize {
        if self.config.get("extensions.objectformat") == Some(b"sha256") { 32 } else { 20 }
    }

    /// Reads the index file. Returns `None` if nothing was ever staged.
    pub(crate) fn index(&self) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let path = self.git_dir.join("index");
        read_file(&path).map_err(reading(path))
    }

    /// Returns the commits whose parents this clone does not have.
    pub(crate) fn shallow(&self) -> Result<Vec<String>, WorkspaceError> {
        let path = self.common_dir.join("shallow");
        let lines = read_file(&path).map_err(reading(path))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }

    /// Returns the commits that refs and their logs name.
    pub(crate) fn named_commits(&self) -> Result<BTreeSet<String>, GitError> {
        let arguments = ["rev-list", "--no-walk=unsorted", "--all", "--reflog"];
        Ok(text(&run_in(&self.git, &self.root, &arguments)?)?.lines().map(str::to_owned).collect())
    }

    /// Resolves `name` to the id of a commit.
    ///
    /// # Errors
    /// Returns `NoCommit` if there is none.
    pub fn commit(&self, name: &str) -> Result<String, WorkspaceError> {
        let revision = format!("{name}^{{commit}}");
        match run_in(
            &self.git,
            &self.root,
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &revision],
        ) {
            Ok(id) => Ok(object_id(&id)?),
            Err(GitError::Failed { .. }) => Err(WorkspaceError::NoCommit(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns whether git reads this value as false.
fn is_false(value: &[u8]) -> bool {
    matches!(value.to_ascii_lowercase().as_slice(), b"" | b"false" | b"no" | b"off" | b"0")
}

/// Returns the full name of the checked-out branch.
fn branch(git: &Git, root: &Path, git_dir: &Path) -> Result<Option<String>, WorkspaceError> {
    let path = git_dir.join("HEAD");
    let head = read_file(&path).map_err(reading(path))?.unwrap_or_default();
    match head.strip_prefix(b"ref: ") {
        // With reftable, `HEAD` holds this placeholder.
        Some(b"refs/heads/.invalid\n") => match run_in(git, root, &["symbolic-ref", "--quiet", "HEAD"]) {
            Ok(name) => Ok(Some(text(&name)?)),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
        Some(name) => Ok(Some(text(name)?)),
        None => Ok(None),
    }
}

/// Returns the working tree's root for `dir`, its git directory, and the shared git directory.
fn paths(git: &Git, dir: &Path) -> Result<(PathBuf, PathBuf, PathBuf), WorkspaceError> {
    let query = |what: &[&str]| {
        let output = run_in(git, dir, &[&["rev-parse", "--path-format=absolute"], what].concat())?;
        Ok(output.strip_suffix(b"\n").ok_or_else(|| unexpected_output("rev-parse", "no path"))?.to_vec())
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let all = query(&["--show-toplevel", "--git-dir", "--git-common-dir"])
        .map_err(|error| find_error(dir, error))?;
    if let [root, git_dir, common_dir] = all.split(|byte| *byte == b'\n').collect::<Vec<_>>().as_slice() {
        return Ok((path(root), path(git_dir), path(common_dir)));
    }
    // If a path contains a line break, query each separately.
    let one = |what| query(&[what]).map(|bytes| path(&bytes));
    let paths = || Ok((one("--show-toplevel")?, one("--git-dir")?, one("--git-common-dir")?));
    paths().map_err(|error| find_error(dir, error))
}

/// Returns whether the `.git` of `root` is, or names, the directory `git_dir`. A hostile repository's configuration may
/// name any other directory as its working tree, such as the one with the user's keys.
fn belongs_to(root: &Path, git_dir: &Path) -> bool {
    let named = parts::pointer(root).map_or_else(|| fs::canonicalize(root.join(".git")), Ok);
    matches!((named, fs::canonicalize(git_dir)), (Ok(named), Ok(git_dir)) if named == git_dir)
}

/// Converts an error of git about `dir` to a more specific one.
fn find_error(dir: &Path, error: GitError) -> WorkspaceError {
    let dir = dir.to_owned();
    match error {
        GitError::Failed { stderr, .. } if stderr.contains("dubious ownership") => {
            WorkspaceError::UntrustedOwner(dir)
        }
        GitError::Failed { stderr, .. } if stderr.contains("must be run in a work tree") => {
            WorkspaceError::Bare(dir)
        }
        GitError::Failed { stderr, .. } if stderr.contains("not a git repository") => {
            WorkspaceError::NoRepository(dir)
        }
        error => error.into(),
    }
}

/// Runs git in `dir`, where the repository's own configuration applies. Only for commands that run nothing from
/// it.
fn run_in(git: &Git, dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
    let mut command = git.command(arguments);
    command.current_dir(dir);
    run(command, &[])
}

/// Parses the id that git has printed.
pub(crate) fn object_id(output: &[u8]) -> Result<String, GitError> {
    let id = text(output)?;
    if is_object_id(&id) {
        Ok(id)
    } else {
        Err(unexpected_output("rev-parse", format!("`{id}` is not an object id")))
    }
}

/// Returns whether `text` is a full object id.
pub(crate) fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text(output: &[u8]) -> Result<String, GitError> {
    let text =
        std::str::from_utf8(output).map_err(|error| unexpected_output("rev-parse", error.to_string()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}
