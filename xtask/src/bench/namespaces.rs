//! Network namespaces for measurements: a machine of its own, and an internet for it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::command::check;

/// The internet's server.
pub(super) const SERVER: &str = "203.0.113.1";

/// The internet's resolver, and a name that it knows.
pub(super) const RESOLVER: &str = "203.0.113.53";
pub(super) const NAME: &str = "www.example";

/// A machine and the internet that it reaches, each in a network namespace.
#[derive(Debug)]
pub(super) struct Internet {
    _resolver: KilledOnDrop,
    pub(super) machine: Namespace,
    pub(super) internet: Namespace,
    _dir: TempDir,
}

impl Internet {
    /// Needs root.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?;
        let (machine, internet) = (Namespace::new()?, Namespace::new()?);
        machine.connect("wan0", "198.51.100", &internet)?;
        machine.ip("route add default via 198.51.100.1")?;
        for server in [SERVER, RESOLVER] {
            internet.ip(&format!("addr add {server}/32 dev lo"))?;
        }
        let file = dir.path().join("resolv.conf");
        fs::write(&file, format!("nameserver {RESOLVER}\n"))?;
        check(machine.command("mount").arg("--bind").arg(&file).arg("/etc/resolv.conf"))?;
        let mut resolver = internet.command("dnsmasq");
        resolver.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        resolver.args(["--user=root", "--bind-interfaces", "--pid-file=", "--local=/example/"]);
        resolver.arg(format!("--listen-address={RESOLVER}")).arg(format!("--host-record={NAME},{SERVER}"));
        resolver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let resolver = KilledOnDrop(resolver.spawn().context("dnsmasq")?);
        Ok(Self { _resolver: resolver, machine, internet, _dir: dir })
    }
}

/// A network namespace, and a mount namespace, with a process in them.
#[derive(Debug)]
pub(super) struct Namespace {
    pid: u32,
    /// The process that ends with this value; `None` for a process of others.
    process: Option<Child>,
}

impl Namespace {
    fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        // The process prints a line when it is in its namespaces, and ends with its standard input.
        command.args(["--net", "--mount", "--", "sh", "-c", "ip link set lo up && echo; exec cat"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.as_mut().context("no output")?;
        stdout.read_exact(&mut [0]).context("cannot create a network namespace: root can")?;
        Ok(Self { pid: process.id(), process: Some(process) })
    }

    /// Returns the namespaces of a process.
    pub(super) fn of(pid: u32) -> Self {
        Self { pid, process: None }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns a program that runs in the namespace, not yet started.
    pub(super) fn command(&self, program: &str) -> Command {
        inside(self.pid, program)
    }

    pub(super) fn ip(&self, arguments: &str) -> Result<()> {
        check(self.command("ip").args(arguments.split(' ')))
    }

    /// Connects an interface of this namespace to another one: `NETWORK.2` here, `NETWORK.1` there.
    pub(super) fn connect(&self, interface: &str, network: &str, to: &Self) -> Result<()> {
        let peer = format!("{interface}-peer");
        self.ip(&format!("link add {interface} type veth peer name {peer} netns {}", to.pid))?;
        for (namespace, interface, end) in [(self, interface, 2), (to, peer.as_str(), 1)] {
            namespace.ip(&format!("addr add {network}.{end}/24 dev {interface}"))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        Ok(())
    }

    /// Runs a function in a thread in the namespace. Sockets that it returns stay there.
    pub(super) fn run<T: Send>(&self, function: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid))?;
        let entered = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            function()
        };
        thread::scope(|scope| scope.spawn(entered).join()).unwrap_or_else(|_| bail!("a thread panicked"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

/// A process that is killed with this value.
#[derive(Debug)]
pub(super) struct KilledOnDrop(pub(super) Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a program that runs in the network and the mounts of process `pid`, not yet started.
pub(super) fn inside(pid: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--net", "--mount", "--"]).arg(program);
    command
}
