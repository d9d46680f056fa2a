//! Tests the device between host programs and a fake guest.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod driver;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
    thread,
};

use banger_sys::confine::{Access, Confinement, Sockets, confine};
use banger_vsock_device::{Config, Device, MAX_CONNECTIONS};
use driver::{CID, Guest, Packet, RING, TIMEOUT, op, read};
use rustix::fs::inotify;
use tempfile::TempDir;

const RECEIVE: u32 = 1;
const SEND: u32 = 2;
const BOTH: u32 = 3;

/// A device in its own thread.
struct RunningDevice {
    dir: TempDir,
}

impl RunningDevice {
    fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), None)
    }

    fn in_dir(dir: TempDir, ready_port: Option<u32>) -> Self {
        let running = Self { dir };
        let config = Config {
            guest_cid: u32::try_from(CID).unwrap(),
            vhost_socket: running.vhost_socket(),
            host_socket: running.socket(),
            ready_port,
        };
        let mut device = Device::bind(config).unwrap();
        // The thread ends with the test's process.
        thread::spawn(move || {
            loop {
                device.serve().unwrap();
            }
        });
        running
    }

    fn vhost_socket(&self) -> PathBuf {
        self.dir.path().join("vhost.sock")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vsock.sock")
    }

    fn boot(&self) -> Guest {
        Guest::boot(&self.vhost_socket())
    }

    fn boot_without_buffers(&self) -> Guest {
        Guest::boot_without_buffers(&self.vhost_socket())
    }

    /// Connects as a host program and sends its line.
    fn dial(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.socket()).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.set_write_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    /// Waits until the device has done all that it can: it closes a connection with an invalid line.
    fn wait_until_processed(&self) {
        for _ in 0..2 {
            let mut client = UnixStream::connect(self.socket()).unwrap();
            client.write_all(b"invalid\n").unwrap();
            assert!(is_closed(&mut client));
        }
    }
}

/// Returns a device, a guest, and a connection from the host to port 1024.
fn connected() -> (RunningDevice, Guest, UnixStream, (u32, u32)) {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    let mut client = device.dial(1024);
    let ports = guest.accept(1024, &mut client);
    (device, guest, client, ports)
}

/// Panics unless the connection works in both directions.
fn check_connection(guest: &mut Guest, client: &mut UnixStream, ports: (u32, u32)) {
    client.write_all(b"to the guest").unwrap();
    let packet = guest.receive_op(op::RW);
    assert_eq!((packet.ports(), &packet.payload[..]), (ports, &b"to the guest"[..]));
    guest.send(&Packet::bytes(ports, b"to the host"));
    assert_eq!(read(client, 11), b"to the host");
}

/// Panics unless new connections work.
fn check_device(device: &RunningDevice, guest: &mut Guest) {
    let mut client = device.dial(9);
    let ports = guest.accept(9, &mut client);
    check_connection(guest, &mut client, ports);
    drop(client);
    assert_eq!(guest.receive_op(op::SHUTDOWN).ports(), ports);
    guest.send(&Packet::new(op::RST, ports));
}

fn is_closed(client: &mut UnixStream) -> bool {
    matches!(client.read(&mut [0]), Ok(0))
}

#[test]
fn bytes_after_a_host_programs_connect_line_reach_the_guest() {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    let mut client = UnixStream::connect(device.socket()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.write_all(b"CONN").unwrap();
    assert_eq!(guest.wait_until_idle(), []);
    client.write_all(b"ECT 1024\nhello").unwrap();
    let ports = guest.accept(1024, &mut client);
    assert_eq!(guest.receive_op(op::RW).payload, b"hello");
    check_connection(&mut guest, &mut client, ports);
}

#[test]
fn an_invalid_connect_line_closes_the_connection() {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    for line in ["HELLO 1024\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", &"1".repeat(32)] {
        let mut client = UnixStream::connect(device.socket()).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(line.as_bytes()).unwrap();
        assert!(is_closed(&mut client), "{line}");
    }
    assert_eq!(guest.wait_until_idle(), []);
}

#[test]
fn a_guests_root_connects_once_and_only_to_the_ready_port() {
    let dir = tempfile::tempdir().unwrap();
    let listen = |port| UnixListener::bind(dir.path().join(format!("vsock.sock_{port}"))).unwrap();
    let (listener, _other) = (listen(1025), listen(1026));
    let device = RunningDevice::in_dir(dir, Some(1025));
    let mut guest = device.boot();
    let refused = |guest: &mut Guest, ports| {
        guest.send(&Packet::new(op::REQUEST, ports));
        let answer = guest.receive();
        assert_eq!((answer.op, answer.ports()), (op::RST, ports));
    };
    refused(&mut guest, (1026, 5));
    // From a port that any user of the guest can have.
    refused(&mut guest, (1025, 1024));
    guest.send(&Packet::new(op::REQUEST, (1025, 5)));
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(guest.receive().op, op::RESPONSE);
    check_connection(&mut guest, &mut server, (1025, 5));
    refused(&mut guest, (1025, 6));
    check_connection(&mut guest, &mut server, (1025, 5));
}

#[test]
fn the_confined_program_serves_a_guest_and_can_open_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let listener = UnixListener::bind(path("vsock.sock_1025")).unwrap();
    let created = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&created, dir.path(), inotify::WatchFlags::MOVED_TO).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_banger-vsock-device"));
    command.args(["--guest-cid", &CID.to_string(), "--ready-port", "1025", "--vhost-socket"]);
    command.arg(path("vhost.sock")).arg("--host-socket").arg(path("vsock.sock"));
    let confinement = Confinement { sockets: Sockets::Unix, ..Confinement::default() };
    confine(&mut command, &confinement.allow(dir.path(), Access::All), Vec::new()).unwrap();
    let mut program = command.spawn().unwrap();

    let (mut server, _) = listener.accept().unwrap();
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(&created, &mut buffer);
    while events.next().unwrap().file_name() != Some(c"vhost.sock") {}
    let mut guest = Guest::boot(&path("vhost.sock"));
    guest.send(&Packet::new(op::REQUEST, (1025, 5)));
    assert_eq!(guest.receive().op, op::RESPONSE);
    check_connection(&mut guest, &mut server, (1025, 5));
    let mut client = UnixStream::connect(path("vsock.sock")).unwrap();
    client.write_all(b"CONNECT 9\n").unwrap();
    let ports = guest.accept(9, &mut client);
    check_connection(&mut guest, &mut client, ports);
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    // Its own filter is the second.
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
}

#[test]
fn a_refusal_by_the_guest_closes_the_connection() {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    let mut client = device.dial(1024);
    let ports = guest.receive_op(op::REQUEST).ports();
    guest.send(&Packet::new(op::RST, ports));
    assert!(is_closed(&mut client));
}

#[test]
fn the_device_sends_no_more_than_the_guests_credit() {
    let (_host, mut guest, mut client, ports) = connected();
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let writer = {
        let sent = sent.clone();
        thread::spawn(move || client.write_all(&sent).map(|()| client))
    };
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let window = received.len() + (64 << 10);
        while received.len() < window.min(sent.len()) {
            received.extend(guest.receive_op(op::RW).payload);
        }
        assert!(received.len() <= window);
        assert_eq!(guest.wait_until_idle(), [], "without credit");
        let fwd_cnt = u32::try_from(received.len()).unwrap();
        guest.send(&Packet { fwd_cnt, ..Packet::new(op::CREDIT_UPDATE, ports) });
    }
    assert!(received == sent);
    check_connection(&mut guest, &mut writer.join().unwrap().unwrap(), ports);
}

/// Sends `payload` within the device's credit.
fn send_within_credit(guest: &mut Guest, ports: (u32, u32), payload: &[u8]) {
    guest.send(&Packet::new(op::CREDIT_REQUEST, ports));
    let mut credit = guest.receive_op(op::CREDIT_UPDATE);
    let mut sent = 0;
    while sent < payload.len() {
        let available = (credit.buf_alloc + credit.fwd_cnt) as usize - sent;
        let now = available.min(60_000).min(payload.len() - sent);
        if now == 0 {
            credit = guest.receive_op(op::CREDIT_UPDATE);
            continue;
        }
        guest.send(&Packet::bytes(ports, &payload[sent..sent + now]));
        sent += now;
    }
}

#[test]
fn a_host_program_receives_more_than_the_device_buffers() {
    let (_host, mut guest, mut client, ports) = connected();
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let reader = {
        let len = sent.len();
        thread::spawn(move || (read(&mut client, len), client))
    };
    send_within_credit(&mut guest, ports, &sent);
    let (received, mut client) = reader.join().unwrap();
    assert!(received == sent);
    client.write_all(b"x").unwrap();
    assert_eq!(guest.receive_op(op::RW).payload, b"x");
}

#[test]
fn a_guest_that_exceeds_its_credit_resets_only_that_connection() {
    let (device, mut guest, mut slow, ports) = connected();
    // The socket and the device buffer far less.
    for _ in 0..200 {
        guest.send(&Packet::bytes(ports, &[0; 60_000]));
    }
    assert_eq!(guest.receive_op(op::RST).ports(), ports);
    // Each packet in flight is reset, too.
    guest.wait_until_idle();
    check_device(&device, &mut guest);
    assert!(slow.read_to_end(&mut Vec::new()).unwrap() < 200 * 60_000);
}

#[test]
fn a_host_program_that_reads_nothing_does_not_block_others() {
    let (device, mut guest, _slow, ports) = connected();
    guest.send(&Packet::new(op::CREDIT_REQUEST, ports));
    let credit = guest.receive_op(op::CREDIT_UPDATE).buf_alloc;
    for _ in 0..credit / (32 << 10) {
        guest.send(&Packet::bytes(ports, &[0; 32 << 10]));
    }
    check_device(&device, &mut guest);
}

#[test]
fn each_direction_is_shut_down_separately() {
    let (_host, mut guest, mut client, ports) = connected();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive_op(op::RW).payload, b"last");
    assert_eq!(guest.receive_op(op::SHUTDOWN).flags, SEND);
    guest.send(&Packet::bytes(ports, b"answer"));
    guest.send(&Packet::shutdown(ports, BOTH));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(guest.receive_op(op::RST).ports(), ports);

    let (_host, mut guest, mut client, ports) = connected();
    guest.send(&Packet::shutdown(ports, SEND));
    assert!(is_closed(&mut client));
    client.write_all(b"still").unwrap();
    assert_eq!(guest.receive_op(op::RW).payload, b"still");
    guest.send(&Packet::shutdown(ports, RECEIVE));
    assert_eq!(guest.receive_op(op::RST).ports(), ports);

    let (_host, mut guest, mut client, ports) = connected();
    guest.send(&Packet::shutdown(ports, RECEIVE));
    guest.wait_until_idle();
    assert_eq!(client.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(&Packet::bytes(ports, b"still"));
    assert_eq!(read(&mut client, 5), b"still");
}

#[test]
fn packets_for_a_closed_host_program_reset_the_connection() {
    let (device, mut guest, mut client, ports) = connected();
    client.write_all(b"last").unwrap();
    drop(client);
    assert_eq!(guest.receive_op(op::RW).payload, b"last");
    assert_eq!(guest.receive_op(op::SHUTDOWN).flags & SEND, SEND);
    guest.wait_until_idle();
    guest.send(&Packet::bytes(ports, b"unread"));
    assert_eq!(guest.receive_op(op::RST).ports(), ports);
    check_device(&device, &mut guest);
}

#[test]
fn bytes_sent_before_a_guest_closes_reach_a_slow_host_program() {
    let (_host, mut guest, mut client, ports) = connected();
    guest.send(&Packet::new(op::CREDIT_REQUEST, ports));
    let len = guest.receive_op(op::CREDIT_UPDATE).buf_alloc as usize;
    send_within_credit(&mut guest, ports, &vec![7; len]);
    guest.send(&Packet::shutdown(ports, BOTH));
    // Linux waits at most 8 seconds for the answer.
    guest.send(&Packet::new(op::RST, ports));
    guest.wait_until_idle();
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), len);
}

#[test]
fn a_reset_by_the_guest_closes_the_connection() {
    let (device, mut guest, mut client, ports) = connected();
    guest.send(&Packet::new(op::RST, ports));
    assert!(is_closed(&mut client));
    check_device(&device, &mut guest);
}

#[test]
fn a_host_program_that_disconnects_early_affects_nothing_else() {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    // Only writing the answer shows that the client does not read.
    let client = device.dial(1024);
    let ports = guest.receive_op(op::REQUEST).ports();
    client.shutdown(Shutdown::Read).unwrap();
    guest.send(&Packet::new(op::RESPONSE, ports));
    assert_eq!(guest.receive().op, op::RST);
    check_device(&device, &mut guest);

    let client = device.dial(1024);
    let ports = guest.receive_op(op::REQUEST).ports();
    drop(client);
    for _ in 0..2 {
        assert_eq!(guest.receive().ports(), ports);
        guest.send(&Packet::new(op::RESPONSE, ports));
    }
    assert_eq!(guest.receive().op, op::RST);
    check_device(&device, &mut guest);
}

#[test]
fn host_programs_connect_and_disconnect_while_the_guest_is_paused() {
    let (device, mut guest, mut staying_client, ports) = connected();
    let mut leaving_client = device.dial(2000);
    let leaving_ports = guest.accept(2000, &mut leaving_client);
    for _ in 0..3 {
        guest.pause();
        guest.tx.kick.write(1).unwrap();
        guest.rx.kick.write(1).unwrap();
        let mut new_client = device.dial(3000);
        for port in 0..100 {
            drop(device.dial(port));
        }
        staying_client.write_all(b"while paused").unwrap();
        // No other event occurs after the rings are started.
        guest.resume();
        let mut packets = vec![guest.receive(), guest.receive()];
        packets.sort_by_key(|packet| packet.op);
        assert_eq!((packets[0].op, packets[0].guest), (op::REQUEST, 3000), "{packets:?}");
        assert_eq!((packets[1].ports(), &packets[1].payload[..]), (ports, &b"while paused"[..]));
        let new = packets[0].ports();
        guest.send(&Packet::new(op::RESPONSE, new));
        read(&mut new_client, 14);
        check_connection(&mut guest, &mut new_client, new);
        check_connection(&mut guest, &mut staying_client, ports);
        guest.send(&Packet::new(op::RST, new));
    }
    guest.pause();
    drop(leaving_client);
    guest.resume();
    let shutdown = guest.receive();
    assert_eq!((shutdown.op, shutdown.flags, shutdown.ports()), (op::SHUTDOWN, BOTH, leaving_ports));
}

#[test]
fn packets_sent_before_a_pause_are_processed_after_it() {
    let (_host, mut guest, mut client, ports) = connected();
    guest.pause();
    guest.put(&Packet::bytes(ports, b"early").encode());
    guest.resume();
    assert_eq!(read(&mut client, 5), b"early");
}

#[test]
fn packets_wait_until_the_guest_provides_buffers() {
    let (_host, mut guest, mut client, ports) = connected();
    guest.refills = false;
    let sent = vec![9; 1 << 20];
    let writer = {
        let sent = sent.clone();
        thread::spawn(move || client.write_all(&sent))
    };
    let mut received = 0;
    let mut heads = Vec::new();
    while received < sent.len() {
        let packet = guest.receive();
        received += packet.payload.len();
        heads.push(guest.last_head);
        if heads.len() == 5 {
            for head in heads.drain(..) {
                guest.add_rx_buffer(head);
            }
            let fwd_cnt = u32::try_from(received).unwrap();
            guest.send(&Packet { fwd_cnt, ..Packet::new(op::CREDIT_UPDATE, ports) });
        }
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn the_device_stops_reading_if_the_guest_receives_no_resets() {
    let device = RunningDevice::new();
    let mut guest = device.boot_without_buffers();
    let garbage = Packet::new(op::RW, (1, 1)).encode();
    // As many as the device answers at most, and then a full ring of them.
    for _ in 0..256 + u32::from(RING / 2) {
        guest.send_raw(&garbage);
    }
    device.wait_until_processed();
    assert_eq!(guest.used(1), 256);
    for head in 0..RING {
        guest.add_rx_buffer(head);
    }
    for _ in 0..256 + u32::from(RING / 2) {
        assert_eq!(guest.receive().op, op::RST);
    }
    check_device(&device, &mut guest);
}

#[test]
fn hostile_packets_end_at_most_their_own_connection() {
    let (device, mut guest, mut client, ports) = connected();
    let good = Packet::bytes(ports, b"x").encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    // Not for the device: an incomplete header, another context id.
    guest.send_raw(&[]);
    guest.send_raw(&good[..43]);
    guest.send_raw(&with(0, &8_u64.to_le_bytes()));
    guest.send_raw(&with(8, &3_u64.to_le_bytes()));
    assert_eq!(guest.wait_until_idle(), []);
    // Another type is answered, and does not affect the connection.
    guest.send_raw(&with(28, &[2]));
    assert_eq!(guest.wait_until_idle().len(), 1);
    check_connection(&mut guest, &mut client, ports);
    for bad in [
        with(24, &2_u32.to_le_bytes()),
        with(24, &u32::MAX.to_le_bytes()),
        with(30, &[0]),
        with(30, &[8]),
        with(30, &[1]),
        with(30, &[2]),
    ] {
        let mut client = device.dial(1024);
        let ports = guest.accept(1024, &mut client);
        let mut bad = bad;
        bad[20..24].copy_from_slice(&ports.0.to_le_bytes());
        guest.send_raw(&bad);
        assert_eq!(guest.receive_op(op::RST).ports(), ports, "{bad:?}");
        assert!(is_closed(&mut client));
    }
    // Impossible counters.
    let credit = Packet { buf_alloc: 0, fwd_cnt: u32::MAX, ..Packet::new(op::CREDIT_UPDATE, ports) };
    guest.send(&credit);
    guest.send(&Packet { buf_alloc: u32::MAX, ..credit });
    let mut random = 1_u64;
    for round in 0..2000 {
        if round % 32 == 0 {
            guest.wait_until_idle();
        }
        let mut noise = with(24, &0_u32.to_le_bytes());
        for byte in &mut noise[16..] {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = random.to_le_bytes()[0];
        }
        noise[16..20].copy_from_slice(&ports.1.to_le_bytes());
        noise[20..24].copy_from_slice(&ports.0.to_le_bytes());
        let op = noise[30] % 9;
        noise[28..32].copy_from_slice(&[1, 0, op, 0]);
        guest.send_raw(&noise);
    }
    guest.wait_until_idle();
    check_device(&device, &mut guest);
}

#[test]
fn hostile_descriptors_are_returned_unused() {
    let device = RunningDevice::new();
    let mut guest = device.boot();
    let outside = 1 << 40;
    for descriptor in [
        (outside, 44, 0, 0),
        (u64::MAX - 10, 44, 0, 0),
        (0, u32::MAX, 0, 0),
        (0x4000, 8, 1, 60),
        (0x4000, 8, 1, 6000),
        (0x4000, 64, 4, 0),
    ] {
        guest.describe(1, 60, descriptor);
        guest.make_available(1, 60);
        guest.tx.kick.write(1).unwrap();
        while guest.take_used(1).0 != 60 {}
    }
    check_device(&device, &mut guest);
}

#[test]
fn rx_buffers_without_room_are_returned_empty() {
    let device = RunningDevice::new();
    let mut guest = device.boot_without_buffers();
    let buffer = guest.rx.buffer(0);
    for (head, descriptor) in [(0, (buffer, 43, 2, 0)), (1, (buffer, 4096, 0, 0)), (2, (1 << 40, 4096, 2, 0))]
    {
        guest.describe(0, head, descriptor);
        guest.make_available(0, head);
    }
    let _client = device.dial(1024);
    for head in [0, 1, 2] {
        assert_eq!(guest.take_used(0), (head, 0));
    }
    guest.add_rx_buffer(3);
    assert_eq!(guest.receive().op, op::REQUEST);
}

#[test]
fn an_invalid_ring_is_served_again_after_a_restart() {
    let device = RunningDevice::new();
    for index in [0, 1] {
        let mut guest = device.boot();
        let available = guest.available(index);
        guest.claim_available(index, available.wrapping_add(RING + 1));
        guest.tx.kick.write(1).unwrap();
        let _client = device.dial(1);
        device.wait_until_processed();
        // A broken tx ring does not stop the rx ring.
        if index == 1 {
            assert_eq!(guest.receive().guest, 1);
        }
        guest.pause();
        guest.claim_available(index, available);
        guest.resume();
        if index == 0 {
            assert_eq!(guest.receive().guest, 1);
        }
        check_device(&device, &mut guest);
    }
}

#[test]
fn the_number_of_connections_is_limited() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();

    let device = RunningDevice::new();
    let mut guest = device.boot();
    let mut clients = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut client = device.dial(1024);
        let ports = guest.accept(1024, &mut client);
        clients.push((client, ports));
    }
    assert!(is_closed(&mut UnixStream::connect(device.socket()).unwrap()));
    guest.send(&Packet::new(op::REQUEST, (1025, 5)));
    assert_eq!(guest.receive_op(op::RST).ports(), (1025, 5));
    for (client, ports) in [0, MAX_CONNECTIONS / 2, MAX_CONNECTIONS - 1].map(|at| &clients[at]) {
        check_connection(&mut guest, &mut client.try_clone().unwrap(), *ports);
    }
    // A connection whose end the guest does not confirm makes room.
    let (client, ports) = clients.remove(0);
    drop(client);
    assert_eq!(guest.receive_op(op::SHUTDOWN).ports(), ports);
    let mut client = device.dial(1024);
    assert_eq!(guest.receive_op(op::RST).ports(), ports);
    guest.accept(1024, &mut client);
}

#[test]
fn qemus_exit_closes_all_connections_and_a_new_qemu_is_served() {
    let (device, guest, mut client, _) = connected();
    drop(guest);
    assert!(is_closed(&mut client));
    let mut guest = device.boot();
    check_device(&device, &mut guest);
}
