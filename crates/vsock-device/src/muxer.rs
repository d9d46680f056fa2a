//! All connections of the device, and the packets between them and the virtqueues.

use std::{
    collections::{HashMap, VecDeque},
    io::{ErrorKind, Read, Write},
    mem,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::epoll;
use virtio_queue::DescriptorChain;

use crate::{
    Error,
    connection::{Connection, End, Ports},
    log,
    packet::{HEADER_SIZE, HOST_CID, Header, MAX_PAYLOAD, STREAM, op},
    ring::Memory,
    vhost_user::VhostUser,
};

/// Maximum number of concurrent connections. Each has a descriptor, of which a process has 1024 by default.
pub const MAX_CONNECTIONS: usize = 900;

/// Maximum number of RSTs that wait for rx buffers. Beyond that, packets from the guest wait.
const MAX_RESETS: usize = 256;

/// Maximum number of packets of a virtqueue between two waits for events.
const BATCH: usize = 128;

/// First port of the guest that its users can bind; those below are root's.
const FIRST_UNPRIVILEGED_PORT: u32 = 1024;

/// First port of the host's side of a connection, the same as Firecracker's.
const FIRST_PORT: u32 = 1 << 30;

/// Events that are always watched on a stream, edge-triggered.
const STREAM_EVENTS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);

/// The connection to the host that the guest may open, to this port: with it, the guest's agent announces itself.
#[derive(Debug)]
pub(crate) struct Ready {
    port: u32,
    stream: UnixStream,
}

impl Ready {
    /// Opens the connection. The host's program sees it before the guest does, and waits for the first byte.
    pub(crate) fn open(host_socket: &Path, port: u32) -> Result<Self, Error> {
        let mut path = host_socket.to_owned().into_os_string();
        path.push(format!("_{port}"));
        let path = PathBuf::from(path);
        let stream = UnixStream::connect(&path).map_err(|source| Error::Ready { path, source })?;
        Ok(Self { port, stream })
    }
}

/// The connections.
#[derive(Debug)]
pub(crate) struct Muxer {
    guest_cid: u64,
    listener: UnixListener,
    /// The listener may have connections.
    listener_ready: bool,
    /// The connection that the guest may open.
    ready: Option<Ready>,
    epoll: Arc<OwnedFd>,
    connections: HashMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    /// Connections that may have a packet for the guest; each sends one in turn.
    scheduled: VecDeque<u64>,
    /// Packets for the guest that belong to no connection.
    resets: VecDeque<Header>,
    next_id: u64,
    next_port: u32,
    /// The device has logged that it refuses connections.
    logged_full: bool,
    bytes: Vec<u8>,
}

impl Muxer {
    /// Creates a muxer. Its connections have the epoll tokens from `first_id` on.
    pub(crate) fn new(
        guest_cid: u32,
        listener: UnixListener,
        ready: Option<Ready>,
        epoll: Arc<OwnedFd>,
        first_id: u64,
    ) -> Self {
        Self {
            guest_cid: guest_cid.into(),
            listener,
            listener_ready: true,
            ready,
            epoll,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            scheduled: VecDeque::new(),
            resets: VecDeque::new(),
            next_id: first_id,
            next_port: 0,
            logged_full: false,
            bytes: vec![0; MAX_PAYLOAD],
        }
    }

    pub(crate) fn listener_event(&mut self) {
        self.listener_ready = true;
    }

    /// Handles an event of a stream; `closed` means that the host program has closed it.
    pub(crate) fn stream_event(&mut self, id: u64, closed: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let requested = match connection.read_line() {
            Ok(port) => port,
            Err(end) => return self.end(id, end),
        };
        if let Some(guest) = requested {
            let ports = self.allocate_ports(guest);
            self.by_ports.insert(ports, id);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.request(ports);
            }
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let result =
            connection.stream_event(closed).and_then(|()| watch_writability(&self.epoll, id, connection));
        match result {
            Ok(()) => self.schedule(id),
            Err(end) => self.end(id, end),
        }
    }

    /// Does all work that is possible now, in limited batches. Returns whether there is more.
    pub(crate) fn process(&mut self, vhost_user: &mut VhostUser) -> bool {
        self.accept();
        // The replies to these packets are sent in the same turn.
        let more = self.receive_packets(vhost_user);
        self.send_packets(vhost_user) || more
    }

    fn accept(&mut self) {
        while self.listener_ready {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // The line may have arrived before the stream was watched.
                    if let Some(id) = self.add(Connection::from_host(stream)) {
                        self.stream_event(id, false);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.listener_ready = false,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // The process has too many open files. The next event triggers a retry.
                Err(error) => {
                    self.log_full_once(format_args!("cannot accept a connection: {error}"));
                    return;
                }
            }
        }
    }

    /// Adds a connection unless the limit is reached.
    fn add(&mut self, connection: Connection) -> Option<u64> {
        if self.connections.len() >= MAX_CONNECTIONS && !self.end_oldest_closing() {
            self.log_full_once(format_args!(
                "{MAX_CONNECTIONS} connections are open, which is the limit: another one was refused"
            ));
            return None;
        }
        let id = self.next_id;
        let stream = connection.stream()?;
        stream.set_nonblocking(true).ok()?;
        epoll::add(&*self.epoll, stream, epoll::EventData::new_u64(id), STREAM_EVENTS).ok()?;
        self.next_id += 1;
        self.connections.insert(id, connection);
        Some(id)
    }

    /// Ends the oldest connection that only waits for the guest's RST.
    fn end_oldest_closing(&mut self) -> bool {
        let closing = self.connections.iter().filter(|(_, connection)| connection.is_closing());
        let oldest = closing.map(|(id, _)| *id).min();
        if let Some(id) = oldest {
            self.end(id, End::Reset);
        }
        oldest.is_some()
    }

    fn log_full_once(&mut self, line: std::fmt::Arguments<'_>) {
        if !mem::replace(&mut self.logged_full, true) {
            log(line);
        }
    }

    /// Returns an unused pair of ports for a port of the guest.
    fn allocate_ports(&mut self, guest: u32) -> Ports {
        loop {
            let host = FIRST_PORT | (self.next_port & (FIRST_PORT - 1));
            self.next_port = self.next_port.wrapping_add(1);
            let ports = Ports { host, guest };
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn schedule(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !mem::replace(&mut connection.scheduled, true)
        {
            self.scheduled.push_back(id);
        }
    }

    fn end(&mut self, id: u64, end: End) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if connection.scheduled {
            self.scheduled.retain(|scheduled| *scheduled != id);
        }
        let Some(ports) = connection.ports else { return };
        self.by_ports.remove(&ports);
        if end == End::Reset {
            self.resets.push_back(Header {
                src_cid: HOST_CID,
                dst_cid: self.guest_cid,
                src_port: ports.host,
                dst_port: ports.guest,
                len: 0,
                kind: STREAM,
                op: op::RST,
                flags: 0,
                buf_alloc: 0,
                fwd_cnt: 0,
            });
        }
    }

    /// Processes packets from the guest. Returns whether there may be more.
    fn receive_packets(&mut self, vhost_user: &mut VhostUser) -> bool {
        let VhostUser { memory, rings: [_, ring], .. } = vhost_user;
        let mut bytes = mem::take(&mut self.bytes);
        let mut more = true;
        ring.disable_kicks(memory);
        for _ in 0..BATCH {
            // A guest that does not receive its RSTs must wait.
            if self.resets.len() >= MAX_RESETS {
                more = false;
                break;
            }
            let Some(chain) = ring.pop(memory) else {
                more = ring.enable_kicks(memory);
                if more {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let packet = read_packet(chain, memory, &mut bytes);
            ring.push(memory, head, 0);
            if let Some((header, len)) = packet {
                self.receive(&header, len.and_then(|len| bytes.get(..len)));
            }
        }
        ring.notify(memory);
        self.bytes = bytes;
        more
    }

    /// Processes a packet from the guest. `payload` is `None` if it is shorter than the header says.
    fn receive(&mut self, header: &Header, payload: Option<&[u8]>) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        if header.kind != STREAM {
            if header.op != op::RST {
                self.resets.push_back(header.reset());
            }
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let Some(id) = self.by_ports.get(&ports).copied() else {
            match header.op {
                op::REQUEST => self.open(ports, header),
                op::RST => {}
                _ => self.resets.push_back(header.reset()),
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let result = payload.map_or(Err(End::Reset), |payload| connection.receive(header, payload));
        match result.and_then(|()| watch_writability(&self.epoll, id, connection)) {
            Ok(()) if connection.ports.is_none() => {
                self.by_ports.remove(&ports);
            }
            Ok(()) => self.schedule(id),
            Err(end) => self.end(id, end),
        }
    }

    /// Gives the guest the connection that waits for it, if its root asks for that port.
    fn open(&mut self, ports: Ports, request: &Header) {
        let is_root = ports.guest < FIRST_UNPRIVILEGED_PORT;
        let ready = self.ready.take_if(|ready| is_root && ready.port == ports.host);
        let connection = ready.map(|ready| Connection::from_guest(ready.stream, ports, request));
        match connection.and_then(|connection| self.add(connection)) {
            Some(id) => {
                self.by_ports.insert(ports, id);
                self.schedule(id);
            }
            None => self.resets.push_back(request.reset()),
        }
    }

    /// Sends packets to the guest. Returns whether there are more that it has buffers for.
    fn send_packets(&mut self, vhost_user: &mut VhostUser) -> bool {
        let VhostUser { memory, rings: [ring, _], .. } = vhost_user;
        let stalled = self.resets.len() >= MAX_RESETS;
        let mut bytes = mem::take(&mut self.bytes);
        let mut more = true;
        ring.disable_kicks(memory);
        for _ in 0..BATCH {
            if self.resets.is_empty() && self.scheduled.is_empty() {
                more = false;
                break;
            }
            let Some(chain) = ring.pop(memory) else {
                more = ring.enable_kicks(memory);
                if more {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let writer = chain.writer(memory).ok();
            let capacity =
                writer.as_ref().and_then(|writer| writer.available_bytes().checked_sub(HEADER_SIZE));
            let (Some(mut writer), Some(capacity)) = (writer, capacity) else {
                // A buffer without room is returned unused.
                ring.push(memory, head, 0);
                continue;
            };
            let Some(header) = self.next_packet(capacity, &mut bytes) else {
                ring.unpop();
                more = false;
                break;
            };
            let payload = usize::try_from(header.len).ok().and_then(|len| bytes.get(..len)).unwrap_or(&[]);
            // Cannot fail: the room was checked.
            let _ = writer.write_all(&header.to_bytes()).and_then(|()| writer.write_all(payload));
            ring.push(memory, head, writer.bytes_written());
        }
        ring.notify(memory);
        self.bytes = bytes;
        more || stalled && self.resets.len() < MAX_RESETS
    }

    /// Returns the next packet for the guest, with its payload in `bytes`.
    fn next_packet(&mut self, capacity: usize, bytes: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(id) = self.scheduled.pop_front() {
            let connection = self.connections.get_mut(&id)?;
            if let Some(header) = connection.next_packet(self.guest_cid, capacity, bytes) {
                self.scheduled.push_back(id);
                return Some(header);
            }
            connection.scheduled = false;
        }
        None
    }
}

/// Copies a packet's header, and its payload into `bytes`. Returns no length if the payload is too short.
fn read_packet(
    chain: DescriptorChain<&Memory>,
    memory: &Memory,
    bytes: &mut [u8],
) -> Option<(Header, Option<usize>)> {
    let mut reader = chain.reader(memory).ok()?;
    let mut header = [0; HEADER_SIZE];
    reader.read_exact(&mut header).ok()?;
    let header = Header::from_bytes(&header);
    let len = if header.op == op::RW { usize::try_from(header.len).ok()? } else { 0 };
    let payload = bytes.get_mut(..len).and_then(|bytes| reader.read_exact(bytes).ok());
    Some((header, payload.map(|()| len)))
}

/// Watches a stream for writability while bytes wait to be written.
///
/// Otherwise the device would wake up each time a host program reads.
fn watch_writability(epoll: &OwnedFd, id: u64, connection: &mut Connection) -> Result<(), End> {
    let pending = connection.has_pending_writes();
    let Some(stream) = connection.stream().filter(|_| pending != connection.watches_writing) else {
        return Ok(());
    };
    let flags = if pending { STREAM_EVENTS | epoll::EventFlags::OUT } else { STREAM_EVENTS };
    epoll::modify(epoll, stream, epoll::EventData::new_u64(id), flags).map_err(|_| End::Reset)?;
    connection.watches_writing = pending;
    Ok(())
}
