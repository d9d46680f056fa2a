//! Runs a lab in QEMU, from start to end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{heartbeat::Heartbeat, system::System, terminal};
use crate::command::say;

/// The kernel logs to the serial port, where a failure can be diagnosed. A panic ends QEMU.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1";

/// Interval between checks whether QEMU has exited.
const TICK: Duration = Duration::from_millis(20);

/// Why a lab ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// Its command exited with this status.
    Status(u8),
    /// Its time limit was reached.
    TimedOut,
    /// Its heartbeat stopped.
    Frozen,
}

/// Sinks for the output of the lab's command, and whether it has an interactive terminal.
pub(super) struct CommandStdio {
    pub(super) out: Box<dyn Write + Send>,
    pub(super) err: Box<dyn Write + Send>,
    pub(super) interactive: bool,
}

/// A lab that is ready to boot.
pub(super) struct Machine<'a> {
    pub(super) system: &'a System,
    /// Directory with `in.ext4` and `work.ext4`.
    pub(super) dir: TempDir,
    pub(super) memory: u32,
    pub(super) limit: Option<Duration>,
    pub(super) stdio: CommandStdio,
}

impl Machine<'_> {
    /// Runs the lab until it ends. Unless the lab's command exited, reports the last lines of the console.
    pub(super) fn run(self) -> Result<ExitReason> {
        // Outside the workspace, because a socket's path is limited to 107 bytes.
        let sockets = tempfile::Builder::new().prefix("xtask-").tempdir_in("/tmp")?;
        let listen = |name: &str| UnixListener::bind(sockets.path().join(name));
        let (out, err, status) = (listen("out")?, listen("err")?, listen("status")?);
        let console_path = self.dir.path().join("console");
        let mut console = File::create_new(&console_path).and_then(|_| File::open(&console_path))?;

        let mut command = self.command(sockets.path());
        let mut qemu = Qemu(command.spawn().context("cannot start QEMU")?);
        let Self { dir, limit, stdio: CommandStdio { out: stdout, err: stderr, interactive }, .. } = self;
        let _raw = if interactive { Some(terminal::RawMode::enter()?) } else { None };
        let sockets_path = sockets.path().to_path_buf();
        let out = thread::spawn(move || pump(&out, stdout, interactive));
        let err = thread::spawn(move || pump(&err, stderr, false));
        // When the lab is up, QEMU has opened all files. Delete the directories now, as xtask may be killed later.
        let heartbeat = Heartbeat::default();
        let received_heartbeat = heartbeat.clone();
        let status =
            thread::spawn(move || read_status(&status, || drop((dir, sockets)), &received_heartbeat));

        let kill_reason = qemu.wait(limit, &heartbeat)?;
        for name in ["out", "err", "status"] {
            // Unblocks a thread to which QEMU never connected.
            let _ = UnixStream::connect(sockets_path.join(name));
        }
        join(out)?;
        join(err)?;
        let status = join(status)?;
        match (kill_reason, status) {
            (Some(reason), _) => {
                say(format_args!("the lab's console ends with:\n{}", tail(&mut console)?));
                Ok(reason)
            }
            (None, Some(status)) => Ok(ExitReason::Status(status)),
            (None, None) => {
                bail!("the lab ended before its command did; its console:\n{}", tail(&mut console)?)
            }
        }
    }

    fn command(&self, sockets: &Path) -> Command {
        // QEMU must not outlive xtask, even if xtask is killed.
        let mut qemu = Command::new("setpriv");
        qemu.args([
            "--pdeathsig",
            "KILL",
            "--",
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ]);
        qemu.args(["-M", "q35", "-accel", "tcg", "-cpu", "max,+svm,+npt,-erms,-fsrm", "-display", "none"]);
        qemu.args(["-m", &self.memory.to_string(), "-append", KERNEL_COMMAND_LINE]);
        qemu.arg("-kernel").arg(self.system.kernel()).arg("-initrd").arg(self.system.initrd());
        let dir = self.dir.path();
        let mut add = |option: &str, value: &str| {
            qemu.args([option, value]);
        };
        add("-serial", &format!("file:{}", dir.join("console").display()));
        // The initrd mounts the disks in this order. Writes to the first go to a temporary file in TMPDIR.
        for (name, file, options) in [
            ("root", self.system.root_disk(), "snapshot=on"),
            ("in", dir.join("in.ext4"), "readonly=on"),
            ("work", dir.join("work.ext4"), "discard=unmap"),
        ] {
            let file = quoted(&file);
            add("-drive", &format!("if=none,id={name},file={file},format=raw,cache=unsafe,{options}"));
            add("-device", &format!("virtio-blk-pci,drive={name}"));
        }
        add("-device", "virtio-serial-pci");
        let out = if self.stdio.interactive { "virtconsole" } else { "virtserialport" };
        for (name, device) in [("out", out), ("err", "virtserialport"), ("status", "virtserialport")] {
            let path = quoted(&sockets.join(name));
            add("-chardev", &format!("socket,id={name},path={path}"));
            add("-device", &format!("{device},chardev={name},name={name}"));
        }
        qemu.env("TMPDIR", dir).stdin(Stdio::null()).stdout(Stdio::null());
        qemu
    }
}

/// A QEMU process. Dropping it kills the process.
#[derive(Debug)]
struct Qemu(Child);

impl Qemu {
    /// Waits until QEMU exits, or kills it and returns the reason.
    fn wait(&mut self, limit: Option<Duration>, heartbeat: &Heartbeat) -> Result<Option<ExitReason>> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        while self.0.try_wait()?.is_none() {
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let is_frozen = heartbeat.has_stopped();
            if is_late || is_frozen {
                self.0.kill()?;
                self.0.wait()?;
                return Ok(Some(if is_frozen { ExitReason::Frozen } else { ExitReason::TimedOut }));
            }
            thread::sleep(TICK);
        }
        Ok(None)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies bytes to `sink` as they arrive; with `bidirectional`, also copies standard input to the port.
fn pump(listener: &UnixListener, mut sink: impl Write, bidirectional: bool) -> Result<()> {
    let (mut port, _) = listener.accept()?;
    if bidirectional {
        let mut port = port.try_clone()?;
        // Ends only when xtask exits, because nothing else ends a read of a terminal.
        thread::spawn(move || io::copy(&mut io::stdin(), &mut port));
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = port.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if sink.write_all(bytes).and_then(|()| sink.flush()).is_err() {
            // The sink is closed, but the lab must be able to continue writing.
            io::copy(&mut port, &mut io::sink())?;
            return Ok(());
        }
    }
}

/// Reads the lab's status port: `ready`, then heartbeats, then the exit status of its command.
fn read_status(listener: &UnixListener, ready: impl FnOnce(), heartbeat: &Heartbeat) -> Result<Option<u8>> {
    let (port, _) = listener.accept()?;
    let mut lines = BufReader::new(port).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    ready();
    if first != "ready" {
        bail!("the lab sent `{first}` instead of `ready`");
    }
    for line in lines {
        let line = line?;
        match line.split_once(' ') {
            None if line == "alive" => heartbeat.record(),
            Some(("status", status)) => {
                return Ok(Some(status.parse().with_context(|| format!("exit status `{status}`"))?));
            }
            _ => bail!("unexpected line from the lab: `{line}`"),
        }
    }
    Ok(None)
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread of the lab panicked"))
}

/// Returns the last 4096 bytes of the console, enough for a kernel panic.
fn tail(console: &mut File) -> Result<String> {
    let length = console.metadata()?.len();
    console.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    console.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Quotes a path for QEMU's comma-separated options.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(lines: &'static str) -> Result<Option<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("status")).unwrap();
        let mut port = UnixStream::connect(dir.path().join("status")).unwrap();
        port.write_all(lines.as_bytes()).unwrap();
        drop(port);
        read_status(&listener, || (), &Heartbeat::default())
    }

    #[test]
    fn the_exit_status_is_read_from_the_labs_status_port() {
        assert_eq!(status_of("").unwrap(), None);
        assert_eq!(status_of("ready\n").unwrap(), None);
        assert_eq!(status_of("ready\nalive\nstatus 42\n").unwrap(), Some(42));
        for wrong in ["up\n", "ready\nstatus many\n", "ready\nalive and well\n", "ready\n42\n"] {
            assert!(status_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(quoted(Path::new("/a,b")), "/a,,b");
    }
}
