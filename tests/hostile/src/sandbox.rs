//! The directories in which a client runs, with files that a guest would like to change.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use banger_api::Dirs;
use tempfile::TempDir;

use crate::{
    snapshot::{Snapshot, copy, restore},
    workspace::git,
};

/// Directories whose files are compared.
const COMPARED: [&str; 5] = ["home", "state", "cache", "config", "tmp"];

/// Environment variable with the root of the sandbox.
const ROOT_VARIABLE: &str = "BANGER_HOSTILE_SANDBOX";

/// A user's home directory, and banger's directories, below one temporary directory.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    /// A copy of the untouched files.
    pristine_files: PathBuf,
    pristine: Snapshot,
    /// Removes everything.
    _dir: TempDir,
}

/// Returns the environment of a client whose directories are below `root`.
#[must_use]
pub fn environment(root: &Path) -> Vec<(&'static str, OsString)> {
    let under = |name: &str| root.join(name).into_os_string();
    vec![
        (ROOT_VARIABLE, root.into()),
        ("HOME", under("home")),
        ("XDG_CONFIG_HOME", under("config")),
        ("XDG_STATE_HOME", under("state")),
        ("XDG_CACHE_HOME", under("cache")),
        ("TMPDIR", under("tmp")),
        ("PATH", env::var_os("PATH").unwrap_or_default()),
        // Any file will do: the fake daemon runs already.
        ("BANGER_BANGERD", under("bangerd")),
        ("BANGER_SYSTEM_CONFIG", under("none")),
        ("TERM", "xterm".into()),
        // Escape sequences must not be removed because the output is a file.
        ("CLICOLOR_FORCE", "1".into()),
    ]
}

impl Sandbox {
    /// Creates the directories and files.
    #[must_use]
    pub fn create() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("s");
        Self::create_at(dir, root)
    }

    /// Returns whether this process has the environment of a sandbox.
    #[must_use]
    pub fn is_of_this_process() -> bool {
        env::var_os(ROOT_VARIABLE).is_some()
    }

    /// Creates the files in the directories that this process's [`environment`] names.
    pub(crate) fn of_this_process() -> Self {
        let root =
            PathBuf::from(env::var_os(ROOT_VARIABLE).expect("this process has a sandbox's environment"));
        let sandbox = Self::create_at(tempfile::tempdir_in(root.parent().unwrap()).unwrap(), root);
        env::set_current_dir(sandbox.home()).unwrap();
        sandbox
    }

    fn create_at(dir: TempDir, root: PathBuf) -> Self {
        for name in COMPARED {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("bangerd"), "").unwrap();
        let pristine_files = dir.path().join("pristine");
        let sandbox = Self { root, pristine_files, pristine: Snapshot::default(), _dir: dir };
        let dirs = sandbox.dirs();
        // For the fake daemon's socket, and for git's files while work is read.
        for dir in [dirs.runtime, dirs.state.join("rescue")] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
        }
        plant_files(&sandbox.home());
        sandbox
    }

    /// Returns the user's home directory, which is also the working directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns banger's directories.
    #[must_use]
    pub fn dirs(&self) -> Dirs {
        let environment = environment(&self.root);
        let variable = |name: &str| {
            let value = environment.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| PathBuf::from(value))
        };
        Dirs::find(variable).unwrap()
    }

    /// Commits a change in the repository, so that there is something to send.
    pub(crate) fn commit_more(&self) {
        let repository = self.home().join("repo");
        fs::write(repository.join("README"), "a repository with a second commit\n").unwrap();
        git(&repository, &["commit", "--quiet", "--all", "-m", "second"]);
    }

    /// Makes the current state the one to which [`restore`](Self::restore) returns.
    pub(crate) fn keep(&mut self) {
        for name in COMPARED {
            fs::create_dir_all(&self.pristine_files).unwrap();
            copy(&self.root.join(name), &self.pristine_files.join(name));
        }
        self.pristine = self.snapshot(&Snapshot::default());
    }

    pub(crate) fn pristine(&self) -> &Snapshot {
        &self.pristine
    }

    pub(crate) fn snapshot(&self, previous: &Snapshot) -> Snapshot {
        Snapshot::take(&self.root, &COMPARED, previous)
    }

    /// Undoes all changes, of which `current` is the state.
    pub(crate) fn restore(&mut self, current: &Snapshot) {
        let changed = current.differences(&self.pristine);
        if changed.is_empty() {
            return;
        }
        for path in &changed {
            restore(&self.root, &self.pristine_files, path);
        }
        self.pristine = self.snapshot(&self.pristine);
    }
}

/// Creates the user's files: those that a guest must not reach, and a repository.
fn plant_files(home: &Path) {
    let write = |name: &str, content: &str| fs::write(home.join(name), content).unwrap();
    for dir in [".ssh", "in", "in/dir", "repo", "repo/src"] {
        fs::create_dir(home.join(dir)).unwrap();
    }
    write(".bashrc", "# the user's\n");
    write(".profile", "# the user's\n");
    write(".gitconfig", "[user]\n\tname = user\n\temail = user@localhost\n");
    write(".ssh/authorized_keys", "ssh-ed25519 AAAA user\n");
    write("in/dir/mine", "the user's\n");
    write("existing.txt", "the user's\n");
    symlink(".profile", home.join("link")).unwrap();
    write("repo/README", "a repository\n");
    write("repo/src/main.c", "int main(void) { return 0; }\n");
    write("repo/.gitignore", "*.o\n");
    let repository = home.join("repo");
    git(&repository, &["init", "--quiet", "--initial-branch=main"]);
    fs::remove_dir_all(repository.join(".git/hooks")).unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "first"]);
    git(&repository, &["gc", "--quiet"]);
}
