//! The daemon's side of the namespace process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use banger_api::HostPorts;
use banger_sys::confine::Namespaces;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{fstat, stat},
};

use super::wire::{GatewaySockets, Reply, Request, Started};
use crate::message::{self, receive, send};

/// Timeout for the network to exist: well under a second, also on a busy host.
const REPLY_TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Connects to the process whose socket is at `path`.
///
/// # Errors
/// Returns an error if there is no such process.
pub fn connect(path: &Path) -> io::Result<Connection> {
    message::connect(path).map(Connection)
}

/// A connection to the process, for one request. It blocks.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Creates the network, which listens on `host_ports` for the guest. `pasta` is a pidfd: a pasta that fails leaves
    /// the program behind that it was to run, which never answers.
    ///
    /// # Errors
    /// Returns the process's failure, or an error if it or pasta ends, or it does not answer.
    pub fn start(
        self,
        pasta: impl AsFd,
        rules: String,
        mtu: u32,
        host_ports: HostPorts,
    ) -> io::Result<Started> {
        let ports = host_ports.ports().len();
        send(&self.0, &Request::Start { rules, mtu, host_ports }, &[])?;
        let mut ready = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(&pasta, PollFlags::IN)];
        poll(&mut ready, Some(&REPLY_TIMEOUT))?;
        let [has_reply, has_ended] = ready.map(|fd| !fd.revents().is_empty());
        if has_ended && !has_reply {
            return Err(io::Error::other("pasta ended"));
        }
        let (reply, descriptors) = self.reply()?;
        match reply {
            Reply::Started { ipv6 } => started(ipv6, ports, descriptors),
            other => Err(unexpected(other)),
        }
    }

    /// Replaces the rules.
    ///
    /// # Errors
    /// As [`start`](Self::start); the rules then stay as they were.
    pub fn apply(self, rules: String) -> io::Result<()> {
        send(&self.0, &Request::Apply { rules }, &[])?;
        match self.reply()?.0 {
            Reply::Applied => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn reply(&self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        receive(&self.0)?.ok_or_else(|| io::Error::other("the namespace process ended"))
    }
}

fn unexpected(reply: Reply) -> io::Error {
    match reply {
        Reply::Failed { message } => io::Error::other(message),
        other => io::Error::other(format!("unexpected reply {other:?}")),
    }
}

/// Sorts the descriptors of a reply.
fn started(ipv6: bool, ports: usize, descriptors: Vec<OwnedFd>) -> io::Result<Started> {
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(|| io::Error::other("a descriptor is missing"));
    let (network, user) = (next()?, next()?);
    // For root, pasta creates no user namespace, and a process cannot enter its own.
    let user = if fstat(&user)?.st_ino == stat("/proc/self/ns/user")?.st_ino { None } else { Some(user) };
    let (lifeline, requests, log) = (next()?, next()?, next()?);
    let families = if ipv6 { 2 } else { 1 };
    let udp = (0..families).map(|_| next()).collect::<io::Result<_>>()?;
    let tcp = (0..families).map(|_| next()).collect::<io::Result<_>>()?;
    let services = (0..families * ports).map(|_| next()).collect::<io::Result<_>>()?;
    let gateway = GatewaySockets { requests, log, udp, tcp, services };
    Ok(Started { namespaces: Namespaces { user, network }, lifeline, gateway, ipv6 })
}
