//! A repository on the host: its directories, what is checked out, and its configuration.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
};

use crate::{
    WorkspaceError,
    error::reading,
    git::{Git, GitError, odd, read_file, run},
};

/// A git repository with a working tree.
#[derive(Debug)]
pub struct Repository {
    pub(crate) git: Git,
    /// The root directory of the working tree.
    pub(crate) root: PathBuf,
    /// The git directory of this working tree: `HEAD` and the index.
    pub(crate) own: PathBuf,
    /// The git directory that all its working trees share: objects and refs.
    pub(crate) common: PathBuf,
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
        let folder = fs::canonicalize(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => WorkspaceError::NoFolder(path.to_owned()),
            _ => reading(path)(error),
        })?;
        let folder = if folder.is_dir() { folder } else { folder.parent().unwrap_or(&folder).to_owned() };
        let ask = |arguments: &[&str]| in_folder(git, &folder, arguments);
        let (places, config, head) = thread::scope(|scope| {
            let head = scope.spawn(|| ask(&["rev-parse", "--revs-only", "HEAD^{commit}", "HEAD^{tree}"]));
            let config = scope.spawn(|| ask(&["config", "--list", "-z", "--includes"]));
            let nothing = |_| Err(odd("rev-parse", "nothing"));
            (places(git, &folder), config.join().unwrap_or_else(nothing), head.join().unwrap_or_else(nothing))
        });
        let (root, own, common) = places?;
        if !leads_to(&root, &own) {
            return Err(WorkspaceError::Elsewhere(root));
        }
        let config = Config::parse(&config?);
        if config.get("extensions.partialclone").is_some() {
            return Err(WorkspaceError::Partial);
        }
        let head = text(&head?)?;
        // The output is empty before the first commit.
        let (head, tree) = match head.split_once('\n') {
            Some((head, tree)) => (Some(object_id(head.as_bytes())?), Some(object_id(tree.as_bytes())?)),
            None => (None, None),
        };
        let branch = branch(git, &root, &own)?;
        Ok(Self { git: git.clone(), root, own, common, head, tree, branch, config })
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

    /// Returns the length of an object id, in bytes.
    pub(crate) fn id_length(&self) -> usize {
        if self.config.get("extensions.objectformat") == Some(b"sha256") { 32 } else { 20 }
    }

    /// Reads the index file. Returns `None` if nothing was ever staged.
    pub(crate) fn index(&self) -> Result<Option<Vec<u8>>, WorkspaceError> {
        let path = self.own.join("index");
        read_file(&path).map_err(reading(path))
    }

    /// Returns the commits whose parents this clone does not have.
    pub(crate) fn shallow(&self) -> Result<Vec<String>, WorkspaceError> {
        let path = self.common.join("shallow");
        let lines = read_file(&path).map_err(reading(path))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect())
    }

    /// Resolves `name` to the id of a commit.
    ///
    /// # Errors
    /// Returns `NoCommit` if there is none.
    pub fn commit(&self, name: &str) -> Result<String, WorkspaceError> {
        let wanted = format!("{name}^{{commit}}");
        match in_folder(
            &self.git,
            &self.root,
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted],
        ) {
            Ok(id) => Ok(object_id(&id)?),
            Err(GitError::Failed { .. }) => Err(WorkspaceError::NoCommit(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the full name of the checked-out branch.
fn branch(git: &Git, root: &Path, own: &Path) -> Result<Option<String>, WorkspaceError> {
    let path = own.join("HEAD");
    let head = read_file(&path).map_err(reading(path))?.unwrap_or_default();
    match head.strip_prefix(b"ref: ") {
        // With reftable, `HEAD` holds this placeholder.
        Some(b"refs/heads/.invalid\n") => match in_folder(git, root, &["symbolic-ref", "--quiet", "HEAD"]) {
            Ok(name) => Ok(Some(text(&name)?)),
            Err(GitError::Failed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        },
        Some(name) => Ok(Some(text(name)?)),
        None => Ok(None),
    }
}

/// Returns the working tree's root for `folder`, its git directory, and the shared git directory.
fn places(git: &Git, folder: &Path) -> Result<(PathBuf, PathBuf, PathBuf), WorkspaceError> {
    let ask = |what: &[&str]| {
        let printed = in_folder(git, folder, &[&["rev-parse", "--path-format=absolute"], what].concat())?;
        Ok(printed.strip_suffix(b"\n").ok_or_else(|| odd("rev-parse", "no path"))?.to_vec())
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let all =
        ask(&["--show-toplevel", "--git-dir", "--git-common-dir"]).map_err(|error| unlike(folder, error))?;
    if let [root, own, common] = all.split(|byte| *byte == b'\n').collect::<Vec<_>>().as_slice() {
        return Ok((path(root), path(own), path(common)));
    }
    // If a path contains a line break, query each separately.
    let one = |what| ask(&[what]).map(|bytes| path(&bytes));
    let places = || Ok((one("--show-toplevel")?, one("--git-dir")?, one("--git-common-dir")?));
    places().map_err(|error| unlike(folder, error))
}

/// Returns whether the `.git` of `root` is, or names, the directory `own`. A hostile repository's configuration may
/// name any other directory as its working tree, such as the one with the user's keys.
fn leads_to(root: &Path, own: &Path) -> bool {
    let place = root.join(".git");
    let named = if place.is_file() { read_file(&place).ok().flatten() } else { None };
    let named = named.as_deref().map(|text| {
        let mut path = text.strip_prefix(b"gitdir: ").unwrap_or(text);
        while let [rest @ .., b'\n' | b'\r'] = path {
            path = rest;
        }
        path
    });
    let place = named.map_or(place, |path| root.join(OsStr::from_bytes(path)));
    matches!((fs::canonicalize(place), fs::canonicalize(own)), (Ok(place), Ok(own)) if place == own)
}

/// Converts an error of git about `folder` to a more specific one.
fn unlike(folder: &Path, error: GitError) -> WorkspaceError {
    let folder = folder.to_owned();
    match error {
        GitError::Failed { stderr, .. } if stderr.contains("dubious ownership") => {
            WorkspaceError::SomebodyElses(folder)
        }
        GitError::Failed { stderr, .. } if stderr.contains("must be run in a work tree") => {
            WorkspaceError::Bare(folder)
        }
        GitError::Failed { stderr, .. } if stderr.contains("not a git repository") => {
            WorkspaceError::NoRepository(folder)
        }
        error => error.into(),
    }
}

/// Runs git in `folder`, where the repository's own configuration applies. Only for commands that run nothing from
/// it.
fn in_folder(git: &Git, folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
    let mut command = git.command(arguments);
    command.current_dir(folder);
    run(command, &[])
}

/// Parses the id that git has printed.
pub(crate) fn object_id(printed: &[u8]) -> Result<String, GitError> {
    let id = text(printed)?;
    if is_id(&id) { Ok(id) } else { Err(odd("rev-parse", format!("`{id}` is not an object id"))) }
}

/// Returns whether `text` is a full object id.
pub(crate) fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text(printed: &[u8]) -> Result<String, GitError> {
    let text = std::str::from_utf8(printed).map_err(|error| odd("rev-parse", error.to_string()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}
