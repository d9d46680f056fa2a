use std::{
    env,
    fs::{self, File},
    io::Write,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
};

use super::{
    entry::{Key, Value, connection},
    *,
};
use crate::SocketProtocol;

#[test]
fn entries_are_decoded_and_other_protocols_are_skipped() {
    let address: Ipv6Addr = "::ffff:203.0.113.1".parse().unwrap();
    let key = Key { address: address.octets(), port: [1, 187, 0, 0], protocol: 6 };
    let value = Value { time: 1, name: *b"cu\xffrl\0rest\0\0\0\0\0\0", pid: 212 };
    let expected = Connection {
        protocol: SocketProtocol::Tcp,
        address: [203, 0, 113, 1].into(),
        port: 443,
        pid: 212,
        name: "cu\u{fffd}rl".to_owned(),
    };
    assert_eq!(connection(&key, &value), Some(expected.clone()));
    let udp6 = Key { address: Ipv6Addr::LOCALHOST.octets(), protocol: 17, ..key };
    let decoded = connection(&udp6, &Value { name: [b'n'; 16], ..value }).unwrap();
    let (protocol, address) = (SocketProtocol::Udp, Ipv6Addr::LOCALHOST.into());
    assert_eq!(decoded, Connection { protocol, address, name: "n".repeat(16), ..expected });
    for protocol in [0, 1, 132, u32::MAX] {
        assert_eq!(connection(&Key { protocol, ..key }, &value), None);
    }
}

/// A cgroup of this process's own, which it leaves when it ends.
struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    /// Creates one and moves this process into it. Returns `None`, and says so, where the machine does not permit it.
    fn enter() -> Option<Self> {
        let skip = |what: &str| {
            // Not through `eprintln!`, whose text is only shown for a failed test.
            let text = format!("SKIPPED: the program for connections needs {what}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("root");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let Some(root) = mount.filter(|mount| mount[2] == "cgroup2").map(|mount| mount[1].to_owned()).next()
        else {
            return skip("a mounted cgroup2");
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let before = Path::new(&root).join(own.trim_start_matches('/'));
        let path = before.join(format!("banger-test-{}", process::id()));
        if fs::create_dir(&path).is_err() {
            return skip("a cgroup2 that is writable");
        }
        let cgroup = Self { path, before };
        cgroup.move_into(&cgroup.path);
        Some(cgroup)
    }

    fn move_into(&self, path: &Path) {
        fs::write(path.join("cgroup.procs"), process::id().to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.move_into(&self.before);
        fs::remove_dir(&self.path).unwrap();
    }
}

/// Sends a datagram to a new socket of loopback, and returns where it went.
fn send_datagram(loopback: &str) -> SocketAddr {
    let receiver = UdpSocket::bind((loopback, 0)).unwrap();
    let to = receiver.local_addr().unwrap();
    UdpSocket::bind((loopback, 0)).unwrap().send_to(b"datagram", to).unwrap();
    let mut datagram = [0; 8];
    assert_eq!(receiver.recv(&mut datagram).unwrap(), datagram.len());
    to
}

#[test]
fn the_kernel_records_the_process_of_each_destination_and_refuses_nothing() {
    const IN_OWN_PROCESS: &str = "BANGER_TEST_IN_OWN_PROCESS";
    if env::var_os(IN_OWN_PROCESS).is_none() {
        // Programs that other tests start would be in the cgroup too.
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", thread::current().name().unwrap(), "--nocapture"]).env(IN_OWN_PROCESS, "1");
        assert!(test.stdout(Stdio::null()).status().unwrap().success());
        return;
    }
    let Some(cgroup) = Cgroup::enter() else { return };
    let directory = File::open(&cgroup.path).unwrap();
    // Two, as another's program may be there.
    let records = [(); 2].map(|()| ConnectionRecord::start(directory.as_fd()).unwrap());
    let mut expected = Vec::new();
    for loopback in ["127.0.0.1", "::1"] {
        let listener = TcpListener::bind((loopback, 0)).unwrap();
        let (open, mut closed) = (listener.local_addr().unwrap(), listener.local_addr().unwrap());
        TcpStream::connect(open).unwrap();
        closed.set_port(0);
        TcpStream::connect(closed).unwrap_err();
        expected.extend([(SocketProtocol::Tcp, open), (SocketProtocol::Tcp, closed)]);
        expected.push((SocketProtocol::Udp, send_datagram(loopback)));
    }
    let name = fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_owned();
    for record in &records {
        let read = record.read().unwrap();
        for (protocol, to) in &expected {
            let is_it = |connection: &&Connection| {
                (connection.protocol, connection.address, connection.port) == (*protocol, to.ip(), to.port())
            };
            let found = read.iter().find(is_it).unwrap_or_else(|| panic!("{protocol:?} {to}: {read:?}"));
            assert_eq!((found.pid, &found.name), (process::id(), &name));
        }
        let last = expected.last().map(|(_, to)| to.port());
        assert_eq!(read.first().map(|connection| connection.port), last, "{read:?}");
    }
    // More than the table has room for. The kernel removes old ones, about in order.
    let (sender, ports) = (UdpSocket::bind("127.0.0.1:0").unwrap(), 1..5000);
    for port in ports.clone() {
        sender.send_to(b"", ("127.0.0.1", port)).unwrap();
    }
    let last: Vec<_> = ports.rev().take(MIN_DESTINATIONS as usize / 2).collect();
    for record in &records {
        let read: Vec<_> = record.read().unwrap().iter().map(|connection| connection.port).collect();
        assert!(read.len() >= MIN_DESTINATIONS as usize && read.starts_with(&last), "{read:?}");
    }
}
