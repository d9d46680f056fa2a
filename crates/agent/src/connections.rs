//! The destinations of the guest's connections, with the processes that used them.
//!
//! A program in the kernel records them, from when the guest is ready. The agent only starts it, and reads the record
//! when the host asks.

use std::{
    cell::OnceCell,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use banger_proto::{Connection, Transport};
use banger_sys::{ConnectionRecord, SocketProtocol, Watched};
use rustix::fs::{Mode, OFlags, fstatfs, open};

use crate::console::log;

/// Maximum number of destinations in a reply, so that one with the longest names is within the host's limit.
const MAX_CONNECTIONS: usize = 1024;

/// Where the agent or an init mounts cgroup2. The second is that of an init which still uses the first version.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Type of the file system cgroup2 (`CGROUP2_SUPER_MAGIC` of `<linux/magic.h>`).
const CGROUP2: u64 = 0x6367_7270;

/// The guest's record, once it has started.
#[derive(Debug, Default)]
pub(crate) struct Connections(OnceCell<ConnectionRecord>);

impl Connections {
    /// Starts the record as soon as cgroup2 is mounted. A kernel without BPF is logged; there is then no record.
    pub(crate) async fn record(&self) {
        let started = root_cgroup().await.and_then(|root| ConnectionRecord::start(root.as_fd()));
        match started {
            // It is started once.
            Ok(record) => drop(self.0.set(record)),
            Err(error) => log(&format!("cannot record which processes use the network: {error}")),
        }
    }

    /// Returns the destinations, those used last first.
    pub(crate) fn read(&self) -> Vec<Connection> {
        let read = self.0.get().map_or_else(|| Ok(Vec::new()), ConnectionRecord::read);
        let recorded = read.unwrap_or_else(|error| {
            log(&format!("cannot read which processes use the network: {error}"));
            Vec::new()
        });
        recorded.into_iter().take(MAX_CONNECTIONS).map(of).collect()
    }
}

fn of(connection: banger_sys::Connection) -> Connection {
    let banger_sys::Connection { protocol, address, port, pid, name: process } = connection;
    let protocol = match protocol {
        SocketProtocol::Tcp => Transport::Tcp,
        SocketProtocol::Udp => Transport::Udp,
    };
    Connection { protocol, address, port, pid, process }
}

/// Waits until cgroup2 is mounted, and returns its root. An init mounts it itself, with its own options, and perhaps
/// never.
async fn root_cgroup() -> io::Result<OwnedFd> {
    // The kernel reports each change of the mounts as readable (proc(5)).
    let mounts = Watched::new(File::open("/proc/self/mountinfo")?.into())?;
    loop {
        if let Some(root) = CGROUPS.iter().find_map(|path| mounted(Path::new(path))) {
            return Ok(root);
        }
        mounts.readable().await?.clear_ready();
    }
}

/// Returns the directory `path` if cgroup2 is mounted there.
fn mounted(path: &Path) -> Option<OwnedFd> {
    let root = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let kind = fstatfs(&root).ok()?.f_type;
    (u64::try_from(kind) == Ok(CGROUP2)).then_some(root)
}

#[cfg(test)]
mod tests {
    use banger_proto::{Frame, MAX_REPLY, Reply};

    use super::*;

    #[test]
    fn the_longest_reply_is_within_the_hosts_limit() {
        let connection = of(banger_sys::Connection {
            protocol: SocketProtocol::Tcp,
            address: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
            port: u16::MAX,
            pid: u32::MAX,
            // JSON needs six bytes for such a character.
            name: "\u{1}".repeat(15),
        });
        let reply = Reply::Connections { connections: vec![connection; MAX_CONNECTIONS] };
        let Ok(Frame::Control(bytes)) = Frame::control(&reply) else { panic!("a reply is no control frame") };
        assert!(bytes.len() <= MAX_REPLY, "{}", bytes.len());
    }
}
