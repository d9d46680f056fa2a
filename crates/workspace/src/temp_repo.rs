//! An empty repository that borrows another's objects. git reads files and creates objects only here: no
//! configuration but banger's applies, and everything it creates is deleted with the repository.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use banger_sys::confine::{Access, Confinement, PathRule};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use tempfile::TempDir;

use crate::{
    Budget, Repository, WorkspaceError,
    alternates::object_paths,
    budget::ResourceLimits,
    error::{reading, writing},
    git::{Git, GitCommand, GitError, confinement, run},
    size::size_text,
};

/// Prefix of the directory names.
const PREFIX: &str = "git-";

/// Longer than the time between a repository's creation and its lock.
const MIN_AGE: Duration = Duration::from_secs(60);

/// Flaws of objects in old histories that do no harm. git only warns about them.
const HARMLESS: &str =
    "[fetch \"fsck\"]\n\tbadTimezone = warn\n\tmissingSpaceBeforeDate = warn\n\tzeroPaddedFilemode = warn\n";

/// A temporary repository that borrows another's objects.
#[derive(Debug)]
pub struct TempRepository {
    git: Git,
    dir: TempDir,
    /// Held while the repository is in use.
    _lock: OwnedFd,
    /// The working tree of git commands, empty by default.
    files: PathBuf,
    budget: Budget,
    /// What git may do, if it reads a guest's data.
    confinement: Option<Confinement>,
}

impl TempRepository {
    /// Creates a temporary repository in `parent` for the objects of `repository`, and of a guest within `budget`.
    /// Creates `parent` if it is missing. git is confined: it reads the objects of both, and writes only here.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub(crate) fn create_for_guest(
        repository: &Repository,
        parent: &Path,
        budget: &Budget,
    ) -> Result<Self, WorkspaceError> {
        let mut created = Self::create(repository, parent, budget)?;
        let mut confinement = confinement().allow(created.path(), Access::All);
        let read =
            object_paths(&repository.common_dir.join("objects")).into_iter().chain(patterns(repository));
        confinement.paths.extend(read.map(|path| PathRule { path, access: Access::Read }));
        created.confinement = Some(confinement);
        Ok(created)
    }

    /// Creates a temporary repository in `parent` for the objects of `repository`. Creates `parent` if it is missing.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn create(repository: &Repository, parent: &Path, budget: &Budget) -> Result<Self, WorkspaceError> {
        fs::create_dir_all(parent).map_err(writing(parent))?;
        remove_stale(parent);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(writing(parent))?;
        let lock = lock_dir(dir.path()).map_err(writing(dir.path()))?;
        let (version, format) = if repository.id_length() == 32 {
            (1, "[extensions]\n\tobjectFormat = sha256\n")
        } else {
            (0, "")
        };
        // By default, a fetch runs git in the repositories whose objects are borrowed, to list their refs: there, their
        // own configuration would apply.
        let config = format!(
            "[core]\n\trepositoryformatversion = {version}\n\tbare = true\n\tprotectHFS = true\n\tprotectNTFS = true\n\
             \tfsync = none\n\talternateRefsCommand = true\n\tbigFileThreshold = 64m\n{format}[transfer]\n\tfsckObjects = true\n{HARMLESS}[pack]\n\t\
             compression = 1\n\twriteReverseIndex = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
        );
        let files = dir.path().join("files");
        let (git, budget) = (repository.git.clone(), budget.clone());
        let temp_repo = Self { git, files, dir, _lock: lock, budget, confinement: None };
        for name in ["files", "refs", "objects/info", "objects/pack", "info"] {
            temp_repo.create_dir(name)?;
        }
        temp_repo.write("HEAD", b"ref: refs/heads/none\n")?;
        temp_repo.write("config", config.as_bytes())?;
        temp_repo.write("objects/info/alternates", &quoted(&repository.common_dir.join("objects")))?;
        Ok(temp_repo)
    }

    /// Borrows the objects of `other` too.
    pub(crate) fn borrow_objects(&mut self, other: &Self) -> Result<(), WorkspaceError> {
        let confinement = self.confinement.take();
        self.confinement = confinement.map(|confinement| confinement.allow(other.objects(), Access::Read));
        let name = "objects/info/alternates";
        let path = self.path().join(name);
        let mut alternates = fs::read(&path).map_err(reading(path))?;
        alternates.extend(quoted(&other.objects()));
        self.write(name, &alternates)
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// Returns the limits of a guest's data.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the directory of the repository's own objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.path().join("objects")
    }

    /// Returns the repository's directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the directory for files that git has to read.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    /// Writes a file of the repository.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WorkspaceError> {
        let path = self.path().join(name);
        fs::write(&path, bytes).map_err(writing(path))
    }

    fn create_dir(&self, name: &str) -> Result<(), WorkspaceError> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).map_err(writing(path))
    }

    /// Returns a git command that runs in the repository.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> GitCommand {
        self.command_in(&self.files, arguments)
    }

    /// Like `command`, with `files` as the working tree. Only for commands that do not read file contents.
    pub(crate) fn command_in<S: AsRef<OsStr>>(
        &self,
        files: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> GitCommand {
        let mut command = self.git.command(arguments);
        command
            .current_dir(files)
            .env("GIT_DIR", self.path())
            .env("GIT_WORK_TREE", files)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1");
        match &self.confinement {
            Some(confinement) => command.confine(confinement.clone()),
            None => command,
        }
    }

    /// Returns a git command that processes a guest's objects, with output of at most `max_output` bytes.
    pub(crate) fn limited_command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        max_output: usize,
    ) -> GitCommand {
        let limits = ResourceLimits { file_size: self.budget.objects, memory: self.budget.memory };
        self.command(arguments).within(max_output, Some(limits))
    }

    /// Runs a git command that processes a guest's objects, and returns its output of at most `max_output` bytes. `what`
    /// names the output.
    pub(crate) fn limited_run(
        &self,
        arguments: &[&str],
        input: &[u8],
        what: &'static str,
        max_output: usize,
    ) -> Result<Vec<u8>, WorkspaceError> {
        run(self.limited_command(arguments, max_output), input).map_err(|error| match error {
            GitError::UnexpectedOutput { .. } => {
                WorkspaceError::TooLarge { what, limit: size_text(max_output as u64) }
            }
            error => error.into(),
        })
    }

    /// Runs a git command in the repository, and returns its output.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        run(self.command(arguments), input)
    }
}

/// Returns the user's files with patterns for ignored files and attributes, which git looks for (gitignore(5),
/// gitattributes(5)).
fn patterns(repository: &Repository) -> impl Iterator<Item = PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let config = env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let config = config.or_else(|| Some(home.as_ref()?.join(".config")));
    let usual =
        config.into_iter().flat_map(|dir| ["ignore", "attributes"].map(|name| dir.join("git").join(name)));
    let set = repository.config.get("core.excludesfile").map(|path| match path.strip_prefix(b"~/") {
        Some(path) => home.unwrap_or_default().join(OsStr::from_bytes(path)),
        None => PathBuf::from(OsStr::from_bytes(path)),
    });
    usual.chain(set)
}

/// Removes the repositories of killed processes. A new one is not locked yet, but young.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|then| then.elapsed());
        let old = matches!(age, Ok(Ok(age)) if age > MIN_AGE);
        if is_ours && old && lock_dir(&entry.path()).is_ok() {
            // A repository that cannot be removed does no harm.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn lock_dir(dir: &Path) -> io::Result<OwnedFd> {
    let fd = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// Formats a path for git's list of alternates: one per line, quoted if needed.
fn quoted(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'"' | b'#')) {
        return [bytes, b"\n"].concat();
    }
    [quote(bytes).as_slice(), b"\n"].concat()
}

/// Quotes a path as git expects it.
pub(crate) fn quote(path: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in path {
        match byte {
            b'"' | b'\\' => quoted.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => quoted.push(*byte),
            _ => quoted.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn stale_repositories_are_removed_and_locked_ones_kept() {
        let parent = tempfile::tempdir().unwrap();
        let create = |name: &str, old: bool| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            if old {
                let then = SystemTime::now() - 2 * MIN_AGE;
                fs::File::open(&path).unwrap().set_modified(then).unwrap();
            }
            path
        };
        let (stale, used) = (create("git-stale", true), create("git-used", true));
        let (young, other) = (create("git-young", false), create("other", true));
        let _lock = lock_dir(&used).unwrap();
        remove_stale(parent.path());
        assert_eq!([stale, used, young, other].map(|path| path.exists()), [false, true, true, true]);
    }
}
