//! Runs a VM without banger: the same processes, started directly on copies of its disks.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        net::UnixListener,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::stage::Stage;
use crate::command::check;

/// Vsock port on the host that the guest's agent connects to when it is up.
const READY_PORT: u32 = 1025;

/// Timeout for the vsock device and for the guest.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A VM's processes and disks.
#[derive(Debug)]
pub(super) struct Bare {
    device: Vec<OsString>,
    qemu: Vec<OsString>,
    /// Disks as the VM left them when it stopped.
    disks: TempDir,
    /// Directories in the recorded arguments; each boot replaces them.
    vm_dir: PathBuf,
    runtime_dir: PathBuf,
}

impl Bare {
    /// Reads the command lines of the running `vm`, and stops it.
    pub(super) fn from_running(stage: &Stage, vm: &str) -> Result<Self> {
        let id = stage.vm_id(vm)?;
        let device = command_line_of("banger-vsock-device", &id)?;
        let qemu = command_line_of("qemu-system-x86_64", &id)?;
        let runtime = stage.vm_runtime(vm)?;
        stage.ok(&["vm", "stop", vm])?;
        let dir = stage.state().join("vms").join(&id);
        let disks = tempfile::Builder::new().prefix("bare-").tempdir_in(stage.dir())?;
        copy_disks(&dir, disks.path())?;
        Ok(Self { device, qemu, disks, vm_dir: dir, runtime_dir: runtime })
    }

    /// Boots the VM and returns the time until its agent connects.
    pub(super) fn boot(&self) -> Result<Duration> {
        let dir = tempfile::tempdir_in(self.disks.path().parent().context("no parent directory")?)?;
        copy_disks(self.disks.path(), dir.path())?;
        let sockets = tempfile::Builder::new().prefix("xtask-").tempdir_in("/tmp")?;
        let listener = UnixListener::bind(sockets.path().join(format!("vsock.sock_{READY_PORT}")))?;
        let (sender, receiver) = mpsc::channel();
        // The vsock device connects at its start; the first byte is the agent's.
        let greeted = move || listener.accept().and_then(|(mut stream, _)| stream.read_exact(&mut [0]));
        thread::spawn(move || sender.send(greeted()));

        let start = Instant::now();
        let _device = self.start(&self.device, sockets.path(), dir.path())?;
        let vhost = sockets.path().join("vhost.sock");
        while !vhost.exists() {
            if start.elapsed() > TIMEOUT {
                bail!("the vsock device did not start");
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _qemu = self.start(&self.qemu, sockets.path(), dir.path())?;
        receiver.recv_timeout(TIMEOUT).context("the guest's agent did not connect")??;
        Ok(start.elapsed())
    }

    fn start(&self, line: &[OsString], sockets: &Path, disks: &Path) -> Result<KillOnDrop> {
        let replaced = line.iter().map(|word| {
            let word = &self.without_descriptor(word);
            let word = replace(word, self.runtime_dir.as_os_str(), sockets.as_os_str());
            replace(&word, self.vm_dir.as_os_str(), disks.as_os_str())
        });
        let words: Vec<_> = replaced.collect();
        let (program, arguments) = words.split_first().context("the process has no command line")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(KillOnDrop(command.spawn().with_context(|| format!("cannot start {}", program.display()))?))
    }
    /// Replaces an inherited socket in QEMU's arguments: the vsock device's by its path, the monitor's by nothing.
    fn without_descriptor(&self, word: &OsStr) -> OsString {
        match word.to_str() {
            Some(word) if word.starts_with("socket,id=vsock,fd=") => {
                let path = self.runtime_dir.join("vhost.sock");
                format!("socket,id=vsock,path={}", path.display()).into()
            }
            Some(word) if word.starts_with("socket,id=qmp,") => "null,id=qmp".into(),
            _ => word.to_owned(),
        }
    }
}

#[derive(Debug)]
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn copy_disks(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("ext4")) {
            check(Command::new("cp").arg("--sparse=always").arg(&path).arg(to))?;
        }
    }
    Ok(())
}

/// Returns the arguments of a process that runs `program` and has `needle` in its arguments.
fn command_line_of(program: &str, needle: &str) -> Result<Vec<OsString>> {
    for entry in fs::read_dir("/proc")? {
        // The process may exit while it is read.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let is_program = words.first().is_some_and(|word| word.ends_with(program.as_bytes()));
        if is_program && find(&line, needle.as_bytes()).is_some() {
            // Each word ends with a NUL, so `split` returns an extra empty word.
            let count = words.len() - 1;
            return Ok(words.into_iter().take(count).map(OsString::from_vec).collect());
        }
    }
    bail!("no {program} process for VM {needle}")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn replace(word: &OsStr, from: &OsStr, to: &OsStr) -> OsString {
    let mut rest = word.as_bytes();
    let mut replaced = Vec::new();
    while let Some(at) = find(rest, from.as_bytes()) {
        let (before, after) = rest.split_at(at);
        replaced.extend_from_slice(before);
        replaced.extend_from_slice(to.as_bytes());
        rest = after.get(from.len()..).unwrap_or_default();
    }
    replaced.extend_from_slice(rest);
    OsString::from_vec(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_replaced_anywhere_in_an_argument() {
        let replaced = replace("a=/run/v/x,b=/run/v".as_ref(), "/run/v".as_ref(), "/t".as_ref());
        assert_eq!(replaced, "a=/t/x,b=/t");
        assert_eq!(replace("-smp".as_ref(), "/run".as_ref(), "/t".as_ref()), "-smp");
    }

    #[test]
    fn a_process_is_found_by_its_arguments() {
        let mut child = Command::new("sleep").arg("60.0625").spawn().unwrap();
        // A program that has just started has no arguments yet.
        let mut lines = (0..500).map(|_| {
            thread::sleep(Duration::from_millis(10));
            command_line_of("sleep", "60.0625")
        });
        let line = lines.find(Result::is_ok);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(line.unwrap().unwrap(), ["sleep", "60.0625"]);
    }
}
