//! A fake QEMU and guest, which sets up virtqueues in shared memory and speaks virtio-vsock over them.

use std::{
    fs::File,
    io::Read,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, message::VhostUserConfigFlags},
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

/// Timeout after which an operation counts as hung.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const CID: u64 = 7;
pub(crate) const HOST: u64 = 2;

pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// A packet, with the ports by side and not by direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) op: u16,
    pub(crate) host: u32,
    pub(crate) guest: u32,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    /// Creates a packet from a guest that buffers 64 KiB.
    pub(crate) fn new(op: u16, (host, guest): (u32, u32)) -> Self {
        Self { op, host, guest, flags: 0, buf_alloc: 64 << 10, fwd_cnt: 0, payload: Vec::new() }
    }

    pub(crate) fn bytes(ports: (u32, u32), payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..Self::new(op::RW, ports) }
    }

    pub(crate) fn shutdown(ports: (u32, u32), flags: u32) -> Self {
        Self { flags, ..Self::new(op::SHUTDOWN, ports) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(CID.to_le_bytes());
        bytes.extend(HOST.to_le_bytes());
        for word in [self.guest, self.host, u32::try_from(self.payload.len()).unwrap()] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        for word in [self.flags, self.buf_alloc, self.fwd_cnt] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// Decodes a packet to the guest.
    fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(bytes[..16], [HOST.to_le_bytes(), CID.to_le_bytes()].concat(), "the context ids");
        assert_eq!(usize::try_from(word(24)).unwrap(), bytes.len() - 44, "the length");
        Self {
            host: word(16),
            guest: word(20),
            op: u16::from_le_bytes([bytes[30], bytes[31]]),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
            payload: bytes[44..].to_vec(),
        }
    }

    pub(crate) fn ports(&self) -> (u32, u32) {
        (self.host, self.guest)
    }
}

/// Number of entries of each ring.
pub(crate) const RING: u16 = 64;
/// Size of a buffer of the rx ring, in bytes; Linux's are of about this size.
const RX_BUFFER: u32 = 4096;
/// Size of a buffer of the tx ring, in bytes: a whole packet.
const TX_BUFFER: u32 = 68 << 10;
const MEMORY: usize = 8 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The driver's side of a virtqueue whose descriptor N is for buffer N.
pub(crate) struct Ring {
    index: usize,
    base: u64,
    buffers: u64,
    size: u32,
    available: u16,
    used: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

impl Ring {
    fn new(index: usize, base: u64, size: u32) -> Self {
        let event = || EventFd::new(0).unwrap();
        Self {
            index,
            base,
            buffers: base + 0x4000,
            size,
            available: 0,
            used: 0,
            kick: event(),
            call: event(),
        }
    }

    fn available_ring(&self) -> u64 {
        self.base + 0x1000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x2000
    }

    pub(crate) fn buffer(&self, head: u16) -> u64 {
        self.buffers + u64::from(head) * u64::from(self.size)
    }
}

/// A guest that can be paused.
pub(crate) struct Guest {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    pub(crate) rx: Ring,
    pub(crate) tx: Ring,
    bases: [u16; 2],
    /// True to return buffers to the rx ring after they were read.
    pub(crate) refills: bool,
    /// The buffer of the last packet.
    pub(crate) last_head: u16,
}

impl Guest {
    /// Connects to a device, starts its rings and provides rx buffers.
    pub(crate) fn boot(vhost_socket: &Path) -> Self {
        let mut guest = Self::boot_without_buffers(vhost_socket);
        for head in 0..RING {
            guest.add_rx_buffer(head);
        }
        guest
    }

    pub(crate) fn boot_without_buffers(vhost_socket: &Path) -> Self {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let frontend = Frontend::connect(vhost_socket, 2).unwrap();
        let [rx, tx] = [(0, 0, RX_BUFFER), (1, 1 << 20, TX_BUFFER)]
            .map(|(index, base, size)| Ring::new(index, base, size));
        let mut guest = Self { frontend, memory, rx, tx, bases: [0; 2], refills: true, last_head: 0 };
        guest.negotiate();
        guest.resume();
        // The device answers after it has processed the earlier requests.
        guest.frontend.get_features().unwrap();
        guest
    }

    fn negotiate(&mut self) {
        let frontend = &mut self.frontend;
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG));
        frontend.set_protocol_features(VhostUserProtocolFeatures::CONFIG).unwrap();
        let (_, config) = frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
        assert_eq!(config, CID.to_le_bytes());
        frontend.set_features(features).unwrap();
    }

    /// Starts the rings as QEMU does for a VM that boots or continues.
    pub(crate) fn resume(&mut self) {
        let frontend = &mut self.frontend;
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region: &GuestRegionMmap| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        let base_address = regions[0].userspace_addr;
        frontend.set_mem_table(&regions).unwrap();
        for ring in [&self.rx, &self.tx] {
            frontend.set_vring_num(ring.index, RING).unwrap();
            frontend.set_vring_base(ring.index, self.bases[ring.index]).unwrap();
            let config = VringConfigData {
                queue_max_size: RING,
                queue_size: RING,
                flags: 0,
                desc_table_addr: base_address + ring.base,
                used_ring_addr: base_address + ring.used_ring(),
                avail_ring_addr: base_address + ring.available_ring(),
                log_addr: None,
            };
            frontend.set_vring_addr(ring.index, &config).unwrap();
            frontend.set_vring_kick(ring.index, &ring.kick).unwrap();
            frontend.set_vring_call(ring.index, &ring.call).unwrap();
        }
        for index in [0, 1] {
            frontend.set_vring_enable(index, true).unwrap();
        }
    }

    /// Stops the rings as QEMU does for a VM that is paused.
    pub(crate) fn pause(&mut self) {
        for index in [0, 1] {
            self.frontend.set_vring_enable(index, false).unwrap();
        }
        for index in [0, 1] {
            self.bases[index] = u16::try_from(self.frontend.get_vring_base(index).unwrap()).unwrap();
        }
    }

    /// Puts an rx buffer into its ring.
    pub(crate) fn add_rx_buffer(&mut self, head: u16) {
        self.describe(0, head, (self.rx.buffer(head), RX_BUFFER, WRITE, 0));
        self.make_available(0, head);
        self.rx.kick.write(1).unwrap();
    }

    fn ring(&mut self, index: usize) -> &mut Ring {
        if index == 0 { &mut self.rx } else { &mut self.tx }
    }

    /// Writes descriptor `head`: address, length, flags and the next one.
    pub(crate) fn describe(
        &mut self,
        index: usize,
        head: u16,
        (address, len, flags, next): (u64, u32, u16, u16),
    ) {
        let at = GuestAddress(self.ring(index).base + 16 * u64::from(head));
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write_slice(&bytes, at).unwrap();
    }

    pub(crate) fn make_available(&mut self, index: usize, head: u16) {
        let ring = self.ring(index);
        let slot = ring.available_ring() + 4 + 2 * u64::from(ring.available % RING);
        ring.available = ring.available.wrapping_add(1);
        let (available, at) = (ring.available, ring.available_ring() + 2);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.memory.store(available, GuestAddress(at), Ordering::Release).unwrap();
    }

    /// Sets the index of the available ring to any value.
    pub(crate) fn claim_available(&mut self, index: usize, available: u16) {
        let at = self.ring(index).available_ring() + 2;
        self.memory.store(available, GuestAddress(at), Ordering::Release).unwrap();
    }

    pub(crate) fn available(&mut self, index: usize) -> u16 {
        self.ring(index).available
    }

    /// Returns how many buffers the device has returned so far.
    pub(crate) fn used(&mut self, index: usize) -> u16 {
        let at = self.ring(index).used_ring() + 2;
        self.memory.load(GuestAddress(at), Ordering::Acquire).unwrap()
    }

    /// Waits for a buffer that the device returns. Returns its head and the number of bytes written to it.
    pub(crate) fn take_used(&mut self, index: usize) -> (u16, u32) {
        loop {
            let used = self.used(index);
            let ring = self.ring(index);
            if ring.used != used {
                let at = ring.used_ring() + 4 + 8 * u64::from(ring.used % RING);
                ring.used = ring.used.wrapping_add(1);
                let element: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
                return (u16::try_from(element[0]).unwrap(), element[1]);
            }
            // Request a notification of the next buffer only.
            let (expected, at) = (ring.used, ring.available_ring() + 4 + 2 * u64::from(RING));
            self.memory.store(expected, GuestAddress(at), Ordering::Release).unwrap();
            fence(Ordering::SeqCst);
            if self.used(index) == expected {
                let call = &self.ring(index).call;
                assert!(is_ready(call), "the device sent no notification");
                call.read().unwrap();
            }
        }
    }

    /// Waits for the next packet.
    pub(crate) fn receive(&mut self) -> Packet {
        let (head, len) = self.take_used(0);
        let mut bytes = vec![0; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(self.rx.buffer(head))).unwrap();
        self.last_head = head;
        if self.refills {
            self.add_rx_buffer(head);
        }
        Packet::decode(&bytes)
    }

    /// Waits for the next packet that is not about credit.
    pub(crate) fn receive_op(&mut self, op: u16) -> Packet {
        loop {
            let packet = self.receive();
            if packet.op == op {
                return packet;
            }
            assert!([op::CREDIT_UPDATE, op::CREDIT_REQUEST].contains(&packet.op), "{packet:?}");
        }
    }

    /// Puts bytes into the tx ring without notifying the device.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        // The header and the payload have a descriptor each, as with Linux.
        while self.available(1).wrapping_sub(self.tx.used) == RING / 2 {
            self.take_used(1);
        }
        let head = 2 * (self.available(1) % (RING / 2));
        let (buffer, len) = (self.tx.buffer(head), u32::try_from(bytes.len()).unwrap());
        self.memory.write_slice(bytes, GuestAddress(buffer)).unwrap();
        let first = len.min(44);
        self.describe(1, head, (buffer, first, if len > first { NEXT } else { 0 }, head + 1));
        self.describe(1, head + 1, (buffer + u64::from(first), len - first, 0, 0));
        self.make_available(1, head);
    }

    /// Sends bytes that may not be a valid packet.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.tx.kick.write(1).unwrap();
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        self.send_raw(&packet.encode());
    }

    /// Waits until the device has processed everything and sent what it could.
    pub(crate) fn wait_until_idle(&mut self) -> Vec<Packet> {
        let mut others = Vec::new();
        // RSTs are sent first: the second one is sent after everything that the first turn sent.
        for round in [1, 2] {
            let ports = (u32::MAX, u32::MAX - round);
            self.send(&Packet::new(op::CREDIT_UPDATE, ports));
            loop {
                match self.receive() {
                    packet if packet.op == op::RST && packet.ports() == ports => break,
                    packet if packet.op == op::CREDIT_REQUEST => {}
                    packet => others.push(packet),
                }
            }
        }
        others
    }

    /// Accepts the connection of a host program that has sent its line.
    pub(crate) fn accept(&mut self, port: u32, client: &mut UnixStream) -> (u32, u32) {
        let request = self.receive_op(op::REQUEST);
        assert_eq!(request.guest, port);
        self.send(&Packet::new(op::RESPONSE, request.ports()));
        assert_eq!(read(client, 14), format!("OK {}\n", request.host).as_bytes());
        request.ports()
    }
}

fn is_ready(fd: &impl AsRawFd) -> bool {
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    let mut events = [EpollEvent::default()];
    epoll.wait(i32::try_from(TIMEOUT.as_millis()).unwrap(), &mut events).unwrap() == 1
}

pub(crate) fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}
