//! An empty repository that borrows the objects of another one. Here git does all its reading and making: no
//! configuration but our own is in force, and what is made is gone with it.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use tempfile::TempDir;

use crate::{
    Repository, WorkspaceError,
    error::writing,
    git::{Git, GitError, run},
};

/// What the folders of scratches begin with.
const PREFIX: &str = "git-";

/// Longer than one takes to be locked after it was made.
const YOUNG: Duration = Duration::from_secs(60);

/// Such a repository.
#[derive(Debug)]
pub struct Scratch {
    git: Git,
    folder: TempDir,
    /// Held for as long as it is in use.
    _lock: OwnedFd,
    /// Where files are looked for: nowhere, unless said otherwise.
    files: PathBuf,
}

impl Scratch {
    /// Makes one in `parent`, which is made too, for the objects of `repository`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of(repository: &Repository, parent: &Path) -> Result<Self, WorkspaceError> {
        fs::create_dir_all(parent).map_err(writing(parent))?;
        sweep(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(writing(parent))?;
        let lock = locked(folder.path()).map_err(writing(folder.path()))?;
        let (version, format) = if repository.id_length() == 32 {
            (1, "[extensions]\n\tobjectFormat = sha256\n")
        } else {
            (0, "")
        };
        let config = format!(
            "[core]\n\trepositoryformatversion = {version}\n\tbare = true\n\tprotectHFS = true\n\tprotectNTFS = true\n\
             \tfsync = none\n{format}[transfer]\n\tfsckObjects = true\n[pack]\n\tcompression = 1\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
        );
        let files = folder.path().join("files");
        let scratch = Self { git: repository.git.clone(), files, folder, _lock: lock };
        for made in ["files", "refs", "objects/info", "objects/pack", "info"] {
            scratch.make_folder(made)?;
        }
        scratch.write("HEAD", b"ref: refs/heads/none\n")?;
        scratch.write("config", config.as_bytes())?;
        scratch.write("objects/info/alternates", &quoted(&repository.common.join("objects")))?;
        Ok(scratch)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where files that git is to look at may be put.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    /// Writes a file of the repository's.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WorkspaceError> {
        let path = self.path().join(name);
        fs::write(&path, bytes).map_err(writing(path))
    }

    fn make_folder(&self, name: &str) -> Result<(), WorkspaceError> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).map_err(writing(path))
    }

    /// A git command here.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.command_over(&self.files, arguments)
    }

    /// So, with the files in `files`. Only what reads none of their content.
    pub(crate) fn command_over<S: AsRef<OsStr>>(
        &self,
        files: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.git.command(arguments);
        command
            .current_dir(files)
            .env("GIT_DIR", self.path())
            .env("GIT_WORK_TREE", files)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1");
        command
    }

    /// Runs a git command here, and returns what it writes.
    pub(crate) fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        run(self.command(arguments), input)
    }
}

/// Removes what scratches have left that were killed. One that is just being made has no lock yet, but is young.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let of_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|then| then.elapsed());
        let old = matches!(age, Ok(Ok(age)) if age > YOUNG);
        if of_ours && old && locked(&entry.path()).is_ok() {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn locked(folder: &Path) -> io::Result<OwnedFd> {
    let fd = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
    Ok(fd)
}

/// A path as git's list of alternates wants it: a line, in quotes when it would not be one.
fn quoted(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'"' | b'#')) {
        return [bytes, b"\n"].concat();
    }
    [quote(bytes).as_slice(), b"\n"].concat()
}

/// A path in quotes, as git reads it.
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
    fn what_was_left_is_swept_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, old: bool| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            if old {
                let then = SystemTime::now() - 2 * YOUNG;
                fs::File::open(&path).unwrap().set_modified(then).unwrap();
            }
            path
        };
        let (left, used) = (make("git-left", true), make("git-used", true));
        let (young, other) = (make("git-young", false), make("other", true));
        let _lock = locked(&used).unwrap();
        sweep(parent.path());
        assert_eq!([left, used, young, other].map(|path| path.exists()), [false, true, true, true]);
    }
}
