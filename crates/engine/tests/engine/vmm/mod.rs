//! Fake VMMs: processes with the command lines, control sockets, console and exit statuses of the real ones.
//!
//! The virtual machine is a task, [`guest`], that runs the real agent's protocol code on the machine's [`vsock`]. A
//! test can inject faults, see [`faults`].

mod device;
pub(crate) mod faults;
mod firecracker;
mod guest;
mod qemu;
mod vsock;

use std::{
    ffi::OsString,
    fs::File,
    future::pending,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::pin,
    process::exit,
    thread,
};

use anyhow::{Context, Result};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::LocalSet,
};

pub(crate) use device::main as vsock_device;
use faults::{Fault, Faults, Phase};
pub(crate) use firecracker::main as firecracker;
pub(crate) use qemu::main as qemu;
use vsock::Vsock;

/// Returns what a VMM prints as its version.
pub(crate) fn version(program: &str) -> Option<&'static str> {
    match program {
        "firecracker" => Some("Firecracker v1.12.1"),
        "qemu-system-x86_64" => Some("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"),
        _ => None,
    }
}

/// A virtual machine, as its command line describes it.
#[derive(Debug)]
struct Hardware {
    control: ControlSocket,
    vsock: Vsock,
    /// The disks in guest order.
    disks: Vec<PathBuf>,
}

/// The control socket.
#[derive(Debug)]
enum ControlSocket {
    /// Created at this path.
    New(PathBuf),
    /// Inherited.
    Inherited(std::os::unix::net::UnixListener),
}

impl ControlSocket {
    fn path(&self) -> Result<PathBuf> {
        match self {
            Self::New(path) => Ok(path.clone()),
            Self::Inherited(listener) => {
                Ok(listener.local_addr()?.as_pathname().context("a socket without a path")?.to_owned())
            }
        }
    }

    fn listen(self) -> io::Result<UnixListener> {
        match self {
            Self::New(path) => UnixListener::bind(path),
            Self::Inherited(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener)
            }
        }
    }
}

/// Returns a copy of descriptor `number`, which this process has inherited.
fn inherited(number: &str) -> Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, number.parse()?, PidfdGetfdFlags::empty())?)
}

/// State that control sockets can change.
#[derive(Debug, Clone)]
struct Switches {
    faults: Faults,
    paused: watch::Sender<bool>,
}

/// A control protocol.
#[derive(Debug, Clone, Copy)]
enum Control {
    Firecracker,
    Qmp,
}

/// Runs the machine. Returns only if it cannot be set up.
async fn run(hardware: Hardware, control: Control) -> Result<()> {
    let Hardware { control: socket, vsock, disks } = hardware;
    let root = host_root(&socket.path()?)?;
    exit_with_tests(&root)?;
    let switches = Switches { faults: Faults::of(&root), paused: watch::Sender::new(false) };
    switches.faults.reach(Phase::Launch).await;
    let listener = socket.listen().context("the control socket")?;
    tokio::spawn(serve(listener, control, switches.clone()));
    let paused = switches.paused.subscribe();
    let guest = LocalSet::new();
    guest.spawn_local(async move {
        if let Err(error) = guest::boot(vsock, disks, switches).await {
            die(&format!("the guest does not boot: {error:#}"));
        }
    });
    unless_paused(guest, paused).await;
    pending().await
}

/// Polls `guest`, as its virtual CPU, while the machine is not paused.
async fn unless_paused(guest: LocalSet, mut paused: watch::Receiver<bool>) {
    let mut guest = pin!(guest);
    loop {
        tokio::select! {
            biased;
            paused = paused.wait_for(|paused| *paused) => if paused.is_err() { return },
            () = guest.as_mut() => return,
        }
        if paused.wait_for(|paused| !paused).await.is_err() {
            return;
        }
    }
}

async fn serve(listener: UnixListener, control: Control, switches: Switches) {
    if switches.faults.is(Phase::Control, Fault::Hangs) {
        // The kernel still accepts connections.
        return pending().await;
    }
    while let Ok((stream, _)) = listener.accept().await {
        let switches = switches.clone();
        tokio::spawn(async move {
            let served = match control {
                Control::Firecracker => firecracker::serve(stream, &switches).await,
                Control::Qmp => qemu::serve(stream, &switches).await,
            };
            // A client that disconnects early is normal.
            drop(served);
        });
    }
}

impl Switches {
    /// Presses Ctrl-Alt-Del, which resets the guest.
    fn ctrl_alt_del(&self) {
        if !*self.paused.borrow() && !self.faults.is(Phase::Reset, Fault::Hangs) {
            reset();
        }
    }
}

/// Exits like a VMM whose guest resets.
fn reset() -> ! {
    console("reboot: Restarting system");
    exit(0)
}

/// Exits like a VMM that fails.
fn die(message: &str) -> ! {
    // The reader may be gone.
    let _ = writeln!(io::stderr(), "{message}");
    exit(1)
}

/// Writes a line to the guest's console.
fn console(line: &str) {
    // A guest does not notice that the console logger was killed.
    let _ = writeln!(io::stdout(), "{line}");
}

/// Returns the host's directory for a VM's socket, `ROOT/run/vms/ID/SOCKET`, or its name in the current directory.
fn host_root(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?.ancestors().nth(4).context("a socket outside of a test")?.to_owned())
}

/// Makes this process exit when the test process exits, however that happens.
pub(crate) fn exit_with_tests(root: &Path) -> Result<()> {
    let lock = File::open(root.with_file_name(crate::host::LOCK)).context("the tests' lock")?;
    thread::spawn(move || {
        // The test process holds the lock until it exits.
        let _ = lock.lock_shared();
        exit(1);
    });
    Ok(())
}

/// Returns the value that follows `option` on a command line.
fn value<'a>(args: &'a [OsString], option: &str) -> Result<&'a Path> {
    let at = args.iter().position(|arg| arg == option).with_context(|| format!("no {option}"))?;
    Ok(Path::new(args.get(at + 1).with_context(|| format!("{option} has no value"))?))
}

/// Reads a line and not one byte more, because another protocol follows.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return String::from_utf8(line).map_err(io::Error::other),
            byte => line.push(byte),
        }
    }
}
