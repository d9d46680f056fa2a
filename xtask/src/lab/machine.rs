//! QEMU, from its start to its end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{host::Host, terminal};
use crate::command::say;

/// As `timeout` has it.
const TIMED_OUT: u8 = 124;

/// The kernel's own lines go to the serial port, and to whoever looks for a reason. A panic ends QEMU.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1";

/// How often the end is looked for.
const TICK: Duration = Duration::from_millis(20);

/// The lab, ready to boot.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) host: &'a Host,
    /// Has `in.ext4` and `work.ext4`.
    pub(super) folder: TempDir,
    pub(super) memory: u32,
    pub(super) limit: Option<Duration>,
    pub(super) terminal: bool,
}

impl Machine<'_> {
    /// Runs the lab to its end and returns the exit status of the command in it.
    pub(super) fn run(self) -> Result<ExitCode> {
        // A socket's path may have 107 bytes at most, and the workspace may be anywhere.
        let sockets = tempfile::Builder::new().prefix("xtask-").tempdir_in("/tmp")?;
        let listen = |name: &str| UnixListener::bind(sockets.path().join(name));
        let (out, err, status) = (listen("out")?, listen("err")?, listen("status")?);
        let console_path = self.folder.path().join("console");
        let mut console = File::create_new(&console_path).and_then(|_| File::open(&console_path))?;

        let mut command = self.command(sockets.path());
        let mut qemu = Qemu(command.spawn().context("cannot start QEMU")?);
        let _raw = if self.terminal { Some(terminal::Raw::enter()?) } else { None };
        let sockets_path = sockets.path().to_path_buf();
        let out = thread::spawn(move || pump(&out, io::stdout(), self.terminal));
        let err = thread::spawn(move || pump(&err, io::stderr(), false));
        // QEMU has everything open once the lab is up: the folders go now, as nobody may be there to do it later.
        let Self { folder, limit, .. } = self;
        let status = thread::spawn(move || read_status(&status, || drop((folder, sockets))));

        let in_time = qemu.wait(limit)?;
        for name in ["out", "err", "status"] {
            // For a thread to which QEMU never came.
            let _ = UnixStream::connect(sockets_path.join(name));
        }
        ended(out)?;
        ended(err)?;
        let status = ended(status)?;
        match status {
            _ if !in_time => {
                say("the lab's time was up");
                Ok(ExitCode::from(TIMED_OUT))
            }
            Some(status) => Ok(ExitCode::from(status)),
            None => bail!("the lab ended before its command did; its console:\n{}", tail(&mut console)?),
        }
    }

    fn command(&self, sockets: &Path) -> Command {
        // QEMU must not outlive xtask, however that ends.
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
        qemu.args([
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,+svm,+npt",
            "-smp",
            "2",
            "-display",
            "none",
        ]);
        qemu.args(["-m", &self.memory.to_string(), "-append", KERNEL_COMMAND_LINE]);
        qemu.arg("-kernel").arg(self.host.kernel()).arg("-initrd").arg(self.host.initrd());
        let folder = self.folder.path();
        let mut add = |option: &str, value: &str| {
            qemu.args([option, value]);
        };
        add("-serial", &format!("file:{}", folder.join("console").display()));
        // In the order in which the initrd mounts them. What is written to the first goes to a file in TMPDIR.
        for (name, file, options) in [
            ("root", self.host.root_disk(), "snapshot=on"),
            ("in", folder.join("in.ext4"), "readonly=on"),
            ("work", folder.join("work.ext4"), "discard=unmap"),
        ] {
            let file = quoted(&file);
            add("-drive", &format!("if=none,id={name},file={file},format=raw,cache=unsafe,{options}"));
            add("-device", &format!("virtio-blk-pci,drive={name}"));
        }
        add("-device", "virtio-serial-pci");
        let out = if self.terminal { "virtconsole" } else { "virtserialport" };
        for (name, device) in [("out", out), ("err", "virtserialport"), ("status", "virtserialport")] {
            let path = quoted(&sockets.join(name));
            add("-chardev", &format!("socket,id={name},path={path}"));
            add("-device", &format!("{device},chardev={name},name={name}"));
        }
        qemu.env("TMPDIR", folder).stdin(Stdio::null()).stdout(Stdio::null());
        qemu
    }
}

/// Killed when dropped.
#[derive(Debug)]
struct Qemu(Child);

impl Qemu {
    /// Waits for the end, and says whether it came in time.
    fn wait(&mut self, limit: Option<Duration>) -> Result<bool> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        while self.0.try_wait()?.is_none() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.0.kill()?;
                self.0.wait()?;
                return Ok(false);
            }
            thread::sleep(TICK);
        }
        Ok(true)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Passes bytes on as they come; with `both_ways`, also what is typed.
fn pump(listener: &UnixListener, mut sink: impl Write, both_ways: bool) -> Result<()> {
    let (mut port, _) = listener.accept()?;
    if both_ways {
        let mut port = port.try_clone()?;
        // Ends with xtask, as nothing else ends a read of a terminal.
        thread::spawn(move || io::copy(&mut io::stdin(), &mut port));
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = port.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if sink.write_all(bytes).and_then(|()| sink.flush()).is_err() {
            // Nobody listens any more, but the lab still talks, and must not wait.
            io::copy(&mut port, &mut io::sink())?;
            return Ok(());
        }
    }
}

/// Reads the lab's two lines: that it is up, and the exit status of its command.
fn read_status(listener: &UnixListener, ready: impl FnOnce()) -> Result<Option<u8>> {
    let (port, _) = listener.accept()?;
    let mut lines = BufReader::new(port).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    ready();
    if first != "ready" {
        bail!("the lab said `{first}` in place of `ready`");
    }
    let status = lines.next().transpose()?;
    status.map(|status| status.parse().with_context(|| format!("exit status `{status}`"))).transpose()
}

fn ended<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread of the lab's panicked"))
}

/// The end of the console, enough for a kernel's panic.
fn tail(console: &mut File) -> Result<String> {
    let length = console.metadata()?.len();
    console.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    console.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path as a value among QEMU's comma-separated ones.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(said: &'static str) -> Result<Option<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("status")).unwrap();
        let mut port = UnixStream::connect(folder.path().join("status")).unwrap();
        port.write_all(said.as_bytes()).unwrap();
        drop(port);
        read_status(&listener, || ())
    }

    #[test]
    fn a_lab_that_says_no_status_has_none() {
        assert_eq!(status_of("").unwrap(), None);
        assert_eq!(status_of("ready\n").unwrap(), None);
        assert_eq!(status_of("ready\n42\n").unwrap(), Some(42));
        assert!(status_of("ready\nmany\n").is_err());
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(quoted(Path::new("/a,b")), "/a,,b");
    }
}
