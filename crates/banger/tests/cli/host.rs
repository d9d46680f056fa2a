//! An isolated host for each test: its own directories, daemon, VMs and repository.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    phases::{Observer, TIMEOUT},
    programs::real_git,
    run::{Finished, Running},
};

/// A file that the test process keeps locked until it exits.
pub(crate) const LOCK: &str = "lock";

/// Names under which this program stands for others.
const PROGRAMS: [&str; 3] = ["bangerd", "git", "ssh"];

/// Directory of the VMs' guests.
const GUESTS: &str = "guests";

/// Directories that all tests share.
struct TestDirs {
    hosts: TempDir,
    /// Hard links to the test program, so on the same file system as the program.
    programs: TempDir,
    _lock: File,
}

/// An isolated host. Dropping it ends its daemon and removes its files.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    pub(crate) phases: Observer,
}

static TEST_DIRS: OnceLock<Result<TestDirs, String>> = OnceLock::new();

fn test_dirs() -> Result<&'static TestDirs> {
    let set_up = || -> Result<TestDirs> {
        let hosts = tempfile::Builder::new().prefix("banger-cli-").tempdir()?;
        let lock = File::create(hosts.path().join(LOCK))?;
        lock.lock()?;
        let programs = tempfile::Builder::new().prefix("cli-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        for name in PROGRAMS {
            fs::hard_link(env::current_exe()?, programs.path().join(name))?;
        }
        Ok(TestDirs { hosts, programs, _lock: lock })
    };
    let dirs = TEST_DIRS.get_or_init(|| set_up().map_err(|error| format!("{error:#}")));
    dirs.as_ref().map_err(|error| anyhow!("cannot set up the tests' directories: {error}"))
}

/// Removes everything that the tests have created.
pub(crate) fn clear() -> Result<()> {
    if let Some(Ok(dirs)) = TEST_DIRS.get() {
        fs::remove_dir_all(dirs.programs.path())?;
        fs::remove_dir_all(dirs.hosts.path())?;
    }
    Ok(())
}

/// Returns the names of the VMs that a new daemon has.
pub(crate) fn vms(root: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(root.join(GUESTS))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Returns the directory that is the guest of a VM.
pub(crate) fn guest_dir(root: &Path, vm: &str) -> PathBuf {
    root.join(GUESTS).join(vm)
}

impl Host {
    /// Returns a host with these VMs, and a repository with one commit.
    pub(crate) fn new(vms: &[&str]) -> Result<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let root = test_dirs()?.hosts.path().join(number.to_string());
        for name in ["state", "cache", "config", "home", "repo", GUESTS] {
            fs::create_dir_all(root.join(name))?;
        }
        for vm in vms {
            fs::create_dir(guest_dir(&root, vm))?;
        }
        let host = Self { phases: Observer::new(&root)?, root };
        host.git(&["init", "-q", "-b", "main"])?;
        host.git(&["config", "user.name", "A U Thor"])?;
        host.git(&["config", "user.email", "author@example.com"])?;
        fs::write(host.path("repo/file"), "sent\n")?;
        host.git(&["add", "file"])?;
        host.git(&["commit", "-q", "-m", "first"])?;
        Ok(host)
    }

    /// Returns a path in the host's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path of the workspace in a VM's guest.
    pub(crate) fn workspace(&self, vm: &str) -> PathBuf {
        guest_dir(&self.root, vm).join("repo")
    }

    /// Returns a `banger` command, which runs in the repository. No signal is ignored, wherever the tests run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let programs = test_dirs()?.programs.path();
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,QUIT,TERM", env!("CARGO_BIN_EXE_banger")]).args(arguments);
        command.current_dir(self.path("repo")).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        command.env("BANGER_BANGERD", programs.join("bangerd")).env("HOME", self.path("home"));
        for (name, dir) in [("STATE", "state"), ("CACHE", "cache"), ("CONFIG", "config")] {
            command.env(format!("XDG_{name}_HOME"), self.path(dir));
        }
        Ok(command)
    }

    /// Starts `banger`.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Running> {
        Running::start(self.command(arguments)?)
    }

    /// Runs `banger` to its end.
    pub(crate) fn banger(&self, arguments: &[&str]) -> Result<Finished> {
        self.start(arguments)?.finish()
    }

    /// Runs `banger`, which must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.banger(arguments)?.code(0)
    }

    /// Sends the repository to a VM.
    pub(crate) fn prepare(&self, vm: &str) -> Result<()> {
        let guest_path = self.workspace(vm).display().to_string();
        self.ok_once_free(&["vm", "workspace", "prepare", vm, "--guest-path", &guest_path])
    }

    /// Runs `banger`, which must succeed once the agent has noticed that an earlier process was killed.
    pub(crate) fn ok_once_free(&self, arguments: &[&str]) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let finished = self.banger(arguments)?;
            if !finished.stderr.contains("another process is writing") || Instant::now() > deadline {
                return finished.code(0).map(drop);
            }
        }
    }

    /// Returns whether the daemon has a VM of this name.
    pub(crate) fn has_vm(&self, vm: &str) -> Result<bool> {
        Ok(self.ok(&["ps", "-a"])?.lines().any(|line| line.split_whitespace().any(|word| word == vm)))
    }

    /// Runs git in the repository, and returns its output.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String> {
        self.git_in(&self.path("repo"), arguments)
    }

    pub(crate) fn git_in(&self, dir: &Path, arguments: &[&str]) -> Result<String> {
        let mut git = Command::new(real_git()?);
        git.args(["-c", "user.name=guest", "-c", "user.email=guest@example.com"]).args(arguments);
        git.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = git.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {arguments:?}: {stderr}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Returns the content of `file` in the work that was saved from a VM, if any was saved.
    pub(crate) fn saved(&self, vm: &str, file: &str) -> Result<Option<String>> {
        let refs = self.git(&["for-each-ref", "--format=%(refname)", &format!("refs/banger/{vm}/")])?;
        let refs: Vec<_> = refs.lines().collect();
        let prefix = format!("refs/banger/{vm}");
        let best = [format!("{prefix}/uncommitted"), format!("{prefix}/HEAD")];
        let found = best.iter().find(|name| refs.contains(&name.as_str()));
        found.map(|name| self.git(&["show", &format!("{name}:{file}")])).transpose()
    }

    /// Returns the running processes of this host with this name, except zombies.
    pub(crate) fn processes(&self, name: &str) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        let home = format!("HOME={}", self.path("home").display());
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            let is_ours = environment.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes());
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
            // A zombie has no environment any more.
            pids.extend(pid.filter(|_| is_ours && comm.trim() == name));
        }
        Ok(pids)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The daemon ends with the tests, too.
        for pid in self.processes("bangerd").unwrap_or_default() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}
