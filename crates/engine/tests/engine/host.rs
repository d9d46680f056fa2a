//! An isolated host for each test: its own directories, and daemons that use them.

use std::{
    collections::BTreeSet,
    env, fs,
    fs::File,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use banger_api::{ApiError, Dirs, Vmm};
use banger_engine::{Engine, Programs};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    driver::{self, Command},
    fixtures,
    vmm::faults::{self, Fault, Phase},
};

/// A file that the test process keeps locked until it exits.
pub(crate) const LOCK: &str = "lock";

/// Programs that the engine finds by name.
const PROGRAMS: [&str; 4] = ["bangerd", "firecracker", "qemu-system-x86_64", "banger-vsock-device"];

/// Directories that all tests of a run share.
#[derive(Debug)]
pub(crate) struct TestDirs {
    /// The hosts' directories, including a template.
    hosts: TempDir,
    /// Hard links to the test program, so on the same file system as the program.
    programs: TempDir,
    _lock: File,
}

/// Result of a command whose daemon was killed.
#[derive(Debug)]
pub(crate) struct KilledRun {
    /// The fail points that the command reached, each with a count.
    pub(crate) points: Vec<String>,
    /// The command's result, or `None` if the daemon died before it answered.
    pub(crate) result: Option<Result<Value, ApiError>>,
}

/// A test daemon in its own process.
#[derive(Debug)]
struct Daemon {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// An isolated host. Dropping it kills its processes and removes its files.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    daemon: Option<Daemon>,
}

static TEST_DIRS: OnceLock<Result<TestDirs, String>> = OnceLock::new();

impl TestDirs {
    /// Returns the directories of this run, created on the first call.
    pub(crate) fn get() -> Result<&'static Self> {
        let test_dirs = TEST_DIRS.get_or_init(|| Self::set_up().map_err(|error| format!("{error:#}")));
        test_dirs.as_ref().map_err(|error| anyhow!("cannot set up the tests' directories: {error}"))
    }

    fn set_up() -> Result<Self> {
        let hosts = tempfile::Builder::new().prefix("engine-").tempdir_in(memory_dir())?;
        let lock = File::create(hosts.path().join(LOCK))?;
        lock.lock()?;
        let programs = tempfile::Builder::new().prefix("engine-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let own = env::current_exe()?;
        for name in PROGRAMS {
            // Not symbolic links: the engine identifies a process by the path of its program.
            fs::hard_link(&own, programs.path().join(name))?;
        }
        fs::write(programs.path().join("banger-agent"), fixtures::agent())?;
        // The fake VMMs run their guests' commands on the host, which no confinement allows.
        fs::write(programs.path().join("fake-vmms"), "")?;
        let test_dirs = Self { hosts, programs, _lock: lock };
        let mut template = Host::at(test_dirs.hosts.path().join("template"))?;
        let programs = test_dirs.programs();
        let tar = template.path("tiny.tar");
        fs::write(&tar, fixtures::tar(&[("etc/name", b"tiny")])?)?;
        let kernel = template.path("kernel.tar");
        fs::write(&kernel, fixtures::kernel()?)?;
        for command in [
            Command::ImportKernel { name: "debian-cloud".to_owned(), path: kernel },
            Command::ImportImage { name: "tiny".to_owned(), tar },
            Command::Close,
        ] {
            template.daemon = Some(match template.daemon.take() {
                Some(daemon) => daemon,
                None => template.start_daemon(&programs, &[])?,
            });
            template.send(command)??;
        }
        template.kill_daemon()?;
        // Its directory stays as the template.
        std::mem::forget(template);
        Ok(test_dirs)
    }

    fn programs(&self) -> Programs {
        let [bangerd, agent] = ["bangerd", "banger-agent"].map(|name| self.programs.path().join(name));
        Programs { bangerd, agent }
    }

    /// Removes everything that the tests have created.
    pub(crate) fn clear() -> Result<()> {
        if let Some(Ok(test_dirs)) = TEST_DIRS.get() {
            fs::remove_dir_all(test_dirs.programs.path())?;
            fs::remove_dir_all(test_dirs.hosts.path())?;
        }
        Ok(())
    }
}

/// Returns a directory in memory if it has enough room, so that the stores' thousands of commits wait for no disk.
fn memory_dir() -> PathBuf {
    let available =
        rustix::fs::statvfs("/dev/shm").map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if available >= 2 << 30 { "/dev/shm".into() } else { env::temp_dir() }
}

impl Host {
    /// Returns a host with an image `tiny` and a kernel.
    pub(crate) fn new() -> Result<Self> {
        let host = Self::bare()?;
        link_tree(&TestDirs::get()?.hosts.path().join("template"), &host.root)?;
        // Not a copied lock, after which the first daemon would expect a power loss.
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(host.lock())?);
        host.change_lock(|record| record["inode"] = inode.into())?;
        Ok(host)
    }

    /// Returns a host on which no daemon has ever run.
    pub(crate) fn bare() -> Result<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Self::at(TestDirs::get()?.hosts.path().join(number.to_string()))
    }

    fn at(root: PathBuf) -> Result<Self> {
        for name in ["state", "cache", "config", "run"] {
            fs::create_dir_all(root.join(name))?;
        }
        Ok(Self { root, daemon: None })
    }

    /// Returns a path in the host's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the directory of a VM's disks and logs.
    pub(crate) fn vm_dir(&self, id: &str) -> PathBuf {
        self.path("state/vms").join(id)
    }

    /// Sets the fault of VMs that start from now on.
    pub(crate) fn fault(&self, fault: Option<(Phase, Fault)>) -> Result<()> {
        faults::set(&self.root, fault)
    }

    /// Gives VMs that start from now on an agent of an earlier build.
    pub(crate) fn use_old_agent(&self) -> Result<()> {
        faults::use_old_agent(&self.root)
    }

    /// Returns a socket that receives a datagram when a VM begins to hang.
    pub(crate) fn hanging(&self) -> Result<tokio::net::UnixDatagram> {
        faults::hanging(&self.root)
    }

    /// Opens an engine in this process.
    pub(crate) async fn open(&self) -> Result<Engine> {
        Ok(driver::open(dirs(&self.root), TestDirs::get()?.programs()).await?)
    }

    /// Sends a command to the daemon, starting one if none runs. The outer error means that the daemon died.
    pub(crate) fn send(&mut self, command: Command) -> Result<Result<Value, ApiError>> {
        if self.daemon.is_none() {
            self.daemon = Some(self.start_daemon(&TestDirs::get()?.programs(), &[])?);
        }
        let daemon = self.daemon.as_mut().context("no daemon")?;
        daemon.send(&command)?.with_context(|| format!("the daemon died while it executed {command:?}"))
    }

    /// Sends a command that must succeed.
    pub(crate) fn send_ok(&mut self, command: Command) -> Result<Value> {
        let what = format!("{command:?}");
        self.send(command)?.context(what)
    }

    /// Executes a command in a new daemon that is killed at `point`, or after the command.
    pub(crate) fn run_and_kill(&mut self, point: Option<&str>, command: &Command) -> Result<KilledRun> {
        self.kill_daemon()?;
        let record = self.path("record");
        fs::write(&record, "")?;
        let mut variables = vec![("BANGER_FAIL_POINT_RECORD", record.as_os_str())];
        variables.extend(point.map(|point| ("BANGER_FAIL_POINT", point.as_ref())));
        let mut daemon = self.start_daemon(&TestDirs::get()?.programs(), &variables)?;
        let result = daemon.send(command)?;
        daemon.end()?;
        let points: Vec<_> = fs::read_to_string(&record)?.lines().map(str::to_owned).collect();
        if let Some(point) = point {
            ensure!(
                points.iter().any(|reached| reached == point),
                "only these points were reached: {points:?}"
            );
        }
        Ok(KilledRun { points, result })
    }

    /// Runs commands, which must succeed, in a new daemon that `wrapper` starts. Then kills the host's processes.
    pub(crate) fn run_under<'a>(
        &mut self,
        wrapper: &mut Process,
        commands: impl Iterator<Item = &'a Command>,
    ) -> Result<()> {
        wrapper.arg(&TestDirs::get()?.programs().bangerd).arg("daemon").arg(&self.root);
        let mut daemon = Daemon::start(wrapper).context(format!("{wrapper:?}"))?;
        for command in commands {
            let answer = daemon.send(command)?;
            answer
                .with_context(|| format!("the daemon died while it executed {command:?}"))?
                .with_context(|| format!("{command:?}"))?;
        }
        let Daemon { mut process, commands, answers } = daemon;
        // The daemon exits at the end of its commands, and the wrapper with its last process.
        drop((commands, answers));
        for (pid, _) in self.processes()? {
            kill(pid)?;
        }
        let status = process.wait()?;
        ensure!(status.success(), "{wrapper:?}: {status}");
        Ok(())
    }

    /// Copies the file system of an image to a file of the user's.
    pub(crate) fn copy_image(&mut self, image: &str, to: &str) -> Result<()> {
        let image = self.send_ok(Command::ShowImage(image.to_owned()))?;
        let id = image["id"].as_str().context("id")?;
        let rootfs = self.path("state/images").join(id).join("rootfs.ext4");
        // The file is sparse.
        let status = Process::new("cp").arg("--sparse=always").arg(rootfs).arg(self.path(to)).status()?;
        ensure!(status.success(), "cp: {status}");
        Ok(())
    }

    /// Hard-links a directory of the host's to another, except the store's files, which are copied.
    pub(crate) fn link(&self, from: &str, to: &str) -> Result<()> {
        fs::create_dir(self.path(to))?;
        link_tree(&self.path(from), &self.path(to))
    }

    /// Removes directories of the host's.
    pub(crate) fn remove_all(&self, names: &[&str]) -> Result<()> {
        for path in names.iter().map(|name| self.path(name)).filter(|path| path.exists()) {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Ends all processes, and makes the host appear rebooted to the next daemon: after the daemon has stopped, or by a
    /// power loss.
    pub(crate) fn reboot(&mut self, stopped: bool) -> Result<()> {
        self.kill_daemon()?;
        for (pid, _) in self.processes()? {
            kill(pid)?;
        }
        self.change_lock(|record| {
            record["boot_id"] = "another".into();
            record["stopped"] = stopped.into();
        })
    }

    /// Returns the directory of files that were set aside, if there is one.
    pub(crate) fn set_aside(&self) -> Result<Option<PathBuf>> {
        let state = self.path("state");
        let mut names = names_in(&state)?.into_iter().filter(|name| name.starts_with("set-aside-"));
        Ok(names.next().map(|name| state.join(name)))
    }

    /// Removes all files that were set aside.
    pub(crate) fn remove_set_aside(&self) -> Result<()> {
        while let Some(aside) = self.set_aside()? {
            fs::remove_dir_all(aside)?;
        }
        Ok(())
    }

    fn lock(&self) -> PathBuf {
        self.path("state/store.lock")
    }

    fn change_lock(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut record = serde_json::from_str(&fs::read_to_string(self.lock())?)?;
        change(&mut record);
        Ok(fs::write(self.lock(), record.to_string())?)
    }

    /// Kills the daemon.
    pub(crate) fn kill_daemon(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), Daemon::end)
    }

    /// Returns the daemon's pid, if one runs.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|daemon| daemon.process.id())
    }

    fn start_daemon(&self, programs: &Programs, env: &[(&str, &std::ffi::OsStr)]) -> Result<Daemon> {
        let mut command = Process::new(&programs.bangerd);
        Daemon::start(command.arg("daemon").arg(&self.root).env_clear().envs(env.iter().copied()))
    }

    /// Returns pid and command line of the processes with a path of this host in their arguments or their environment.
    pub(crate) fn processes(&self) -> Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        let needle = format!("{}/", self.root.display());
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // The process may exit meanwhile.
            let [line, environment] = ["cmdline", "environ"].map(|name| {
                let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            });
            if line.contains(&needle) || environment.contains(&needle) {
                found.push((pid, line));
            }
        }
        Ok(found)
    }

    fn tear_down(&mut self) -> Result<()> {
        self.kill_daemon()?;
        for (pid, _) in self.processes()? {
            kill(pid)?;
        }
        Ok(fs::remove_dir_all(&self.root)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            crate::say(&format!("cannot tear down {}: {error:#}", self.root.display()));
        }
    }
}

impl Daemon {
    fn start(command: &mut Process) -> Result<Self> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = process.stdin.take().context("stdin")?;
        let answers = BufReader::new(process.stdout.take().context("stdout")?);
        Ok(Self { process, commands, answers })
    }

    /// Returns the daemon's answer, or `None` if it died.
    fn send(&mut self, command: &Command) -> Result<Option<Result<Value, ApiError>>> {
        let mut line = serde_json::to_string(command)?;
        line.push('\n');
        // Fails if the daemon was killed while opening the store.
        let _ = self.commands.write_all(line.as_bytes());
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Ok(None),
            _ if !answer.ends_with('\n') => bail!("incomplete answer: {answer}"),
            _ => Ok(Some(serde_json::from_str(&answer)?)),
        }
    }

    fn end(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

/// Returns the directories of the host in `root`.
pub(crate) fn dirs(root: &Path) -> Dirs {
    let [config, system_config, state, cache, runtime] =
        ["config", "system.toml", "state", "cache", "run"].map(|name| root.join(name));
    Dirs { config, system_config, state, cache, runtime }
}

/// Returns the programs in the directory of this process's program.
pub(crate) fn programs() -> Result<Programs> {
    let bangerd = env::current_exe()?;
    let agent = bangerd.with_file_name("banger-agent");
    Ok(Programs { bangerd, agent })
}

/// Kills process `pid` and waits for its exit.
pub(crate) fn kill(pid: u32) -> Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        io::retry_on_intr,
        process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
    };
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // The process may have exited meanwhile.
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None))?;
    // An engine in this process started it as a child, which would stay a zombie.
    let _ = waitid(
        WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
    Ok(())
}

/// Returns the names in a directory; none if it does not exist.
pub(crate) fn names_in(directory: &Path) -> Result<BTreeSet<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).context(directory.display().to_string()),
    }
}

/// Hard-links the files under `from` into `to`, except the store, which is copied because tests write to it.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            fs::set_permissions(&target, fs::metadata(&source)?.permissions())?;
            link_tree(&source, &target)?;
        } else if entry.file_name().to_string_lossy().starts_with("store.") {
            fs::copy(&source, &target)?;
        } else {
            fs::hard_link(&source, &target)?;
        }
    }
    Ok(())
}

/// Runs an asynchronous test on its own runtime, which drops every engine that the test has opened.
pub(crate) fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async { tokio::time::timeout(crate::TEST_TIMEOUT, test).await });
    result.context("the test hangs")?
}

/// Both VMMs.
pub(crate) const VMMS: [Vmm; 2] = [Vmm::Firecracker, Vmm::Qemu];
