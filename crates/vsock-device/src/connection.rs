//! One connection between a host program and the guest.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use crate::packet::{
    HOST_CID, Header, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM, op,
};

/// Bytes from the guest that a connection buffers for a slow host program.
const BUFFER: u32 = 256 << 10;

/// Longest line with which a host program begins: `CONNECT 4294967295\n`, and some.
const MAX_LINE: usize = 32;

/// The ports of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// How far the handshake is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The host program sends its `CONNECT` line.
    Line(Vec<u8>),
    /// The guest is to be sent a REQUEST.
    Request,
    /// The guest is to answer the REQUEST.
    Requested,
    /// The guest is to be sent the RESPONSE to its REQUEST.
    Respond,
    /// Bytes flow.
    Open,
}

/// The end of a connection, and what the guest must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest is sent a RST.
    Reset,
    /// The guest has ended the connection, or does not know of it.
    Silent,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Unset while the host program sends its line.
    pub(crate) ports: Option<Ports>,
    state: State,
    /// The host program; `None` after it has closed its side.
    stream: Option<UnixStream>,
    /// The stream may have bytes.
    readable: bool,
    /// The host program sends no more: what is in `to_guest` is all.
    host_sent_all: bool,
    /// The host program has closed its side.
    host_closed: bool,
    /// Bytes that were read and did not fit in a packet.
    to_guest: VecDeque<u8>,
    /// Bytes of the guest that the host program has not taken.
    to_host: VecDeque<u8>,
    /// The flags of the guest's SHUTDOWN.
    guest_shutdown: u32,
    /// The flags of the SHUTDOWN that the guest was sent.
    sent_shutdown: u32,
    /// The guest asked for its credit, or has used half of what it knows of.
    owes_credit: bool,
    /// Bytes from the guest that were forwarded, modulo 2^32, and how many of them the guest knows of.
    forwarded: u32,
    told: u32,
    /// Bytes sent to the guest, modulo 2^32; what it buffers, and what it has consumed.
    sent: u32,
    guest_buffer: u32,
    guest_consumed: u32,
    /// Whether it is among those that may have a packet for the guest.
    pub(crate) scheduled: bool,
}

impl Connection {
    fn new(stream: UnixStream, state: State, ports: Option<Ports>) -> Self {
        Self {
            ports,
            state,
            stream: Some(stream),
            readable: true,
            host_sent_all: false,
            host_closed: false,
            to_guest: VecDeque::new(),
            to_host: VecDeque::new(),
            guest_shutdown: 0,
            sent_shutdown: 0,
            owes_credit: false,
            forwarded: 0,
            told: 0,
            sent: 0,
            guest_buffer: 0,
            guest_consumed: 0,
            scheduled: false,
        }
    }

    /// Creates the connection of a host program that has not sent its line.
    pub(crate) fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, State::Line(Vec::new()), None)
    }

    /// Creates a connection that the guest has requested.
    pub(crate) fn from_guest(stream: UnixStream, ports: Ports, request: &Header) -> Self {
        let mut connection = Self::new(stream, State::Respond, Some(ports));
        connection.note_credit(request);
        connection
    }

    fn note_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_consumed = header.fwd_cnt;
    }

    pub(crate) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// Returns whether only the guest's RST is missing.
    pub(crate) fn is_closing(&self) -> bool {
        self.stream.is_none()
    }

    /// Returns whether the guest knows of the connection.
    fn is_known_to_guest(&self) -> bool {
        !matches!(self.state, State::Line(_) | State::Request)
    }

    fn end(&self) -> End {
        if self.is_known_to_guest() { End::Reset } else { End::Silent }
    }

    /// Reads the host program's line; returns the guest's port when it is complete.
    pub(crate) fn read_line(&mut self) -> Result<Option<u32>, End> {
        let (State::Line(line), Some(stream)) = (&mut self.state, &mut self.stream) else { return Ok(None) };
        let mut bytes = [0; MAX_LINE];
        loop {
            match stream.read(&mut bytes[..MAX_LINE - line.len()]) {
                Ok(0) => return Err(End::Silent),
                Ok(read) => line.extend(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Err(End::Silent),
            }
            let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
                if line.len() == MAX_LINE {
                    return Err(End::Silent);
                }
                continue;
            };
            let port = std::str::from_utf8(&line[..end]).ok();
            let port = port.and_then(|line| line.strip_prefix("CONNECT ")).and_then(|port| port.parse().ok());
            // The guest's bytes follow the line.
            self.to_guest.extend(&line[end + 1..]);
            return port.map(Some).ok_or(End::Silent);
        }
    }

    /// Has the guest sent a REQUEST.
    pub(crate) fn request(&mut self, ports: Ports) {
        self.ports = Some(ports);
        self.state = State::Request;
    }

    /// Notes what epoll says of the stream, and writes what waits for it.
    pub(crate) fn stream_event(&mut self, closed: bool) -> Result<(), End> {
        self.readable = true;
        self.host_closed |= closed;
        if self.host_closed && matches!(self.state, State::Request | State::Requested) {
            return Err(self.end());
        }
        self.flush()
    }

    /// Writes to the host program what it takes.
    fn flush(&mut self) -> Result<(), End> {
        while !self.to_host.is_empty() {
            let (bytes, _) = self.to_host.as_slices();
            let written = write(&mut self.stream, bytes)?;
            if written == 0 {
                break;
            }
            self.to_host.drain(..written);
            self.forward(written);
        }
        self.settle()
    }

    fn forward(&mut self, bytes: usize) {
        // At most a buffer's worth.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(0));
        self.owes_credit |= self.forwarded.wrapping_sub(self.told) >= BUFFER / 2;
    }

    /// Passes the guest's SHUTDOWN on when all that it sent before has been written.
    fn settle(&mut self) -> Result<(), End> {
        if !self.to_host.is_empty() {
            return Ok(());
        }
        // Without ports, it was kept only for these bytes.
        if self.guest_shutdown == SHUTDOWN_BOTH || self.ports.is_none() && self.state == State::Open {
            return Err(End::Reset);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0
            && let Some(stream) = &self.stream
        {
            // It fails when the host program has gone, of which epoll tells.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Takes a packet of the guest for this connection, with its payload.
    pub(crate) fn receive(&mut self, header: &Header, payload: &[u8]) -> Result<(), End> {
        self.note_credit(header);
        match (header.op, &self.state) {
            (op::RST, _) => {
                let orderly = self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.to_host.is_empty();
                if !orderly {
                    return Err(End::Silent);
                }
                // The guest does not wait for a slow host program to read the rest.
                self.ports = None;
                Ok(())
            }
            (op::RESPONSE, State::Requested) => {
                self.state = State::Open;
                let line = format!("OK {}\n", self.ports.map_or(0, |ports| ports.host));
                // Nothing was written before, so there is room for it.
                match write(&mut self.stream, line.as_bytes()) {
                    Ok(written) if written == line.len() => Ok(()),
                    _ => Err(End::Reset),
                }
            }
            (op::RW, State::Open) if self.guest_shutdown & SHUTDOWN_SEND == 0 => self.receive_bytes(payload),
            (op::SHUTDOWN, State::Open) => {
                self.guest_shutdown |= header.flags & SHUTDOWN_BOTH;
                if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
                    self.to_guest.clear();
                    self.host_sent_all = true;
                    if let Some(stream) = &self.stream {
                        // It fails when the host program has gone, of which epoll tells.
                        let _ = stream.shutdown(Shutdown::Read);
                    }
                }
                self.settle()
            }
            (op::CREDIT_UPDATE, State::Open) => Ok(()),
            (op::CREDIT_REQUEST, State::Open) => {
                self.owes_credit = true;
                Ok(())
            }
            _ => Err(End::Reset),
        }
    }

    fn receive_bytes(&mut self, mut payload: &[u8]) -> Result<(), End> {
        if self.to_host.is_empty() {
            let written = write(&mut self.stream, payload)?;
            payload = &payload[written..];
            self.forward(written);
        }
        // The guest had no credit for more.
        if self.to_host.len() + payload.len() > BUFFER as usize {
            return Err(End::Reset);
        }
        self.to_host.extend(payload);
        Ok(())
    }

    /// Returns the next packet for the guest, and puts its payload of at most `room` bytes at the beginning of `bytes`.
    pub(crate) fn next_packet(&mut self, guest_cid: u64, room: usize, bytes: &mut [u8]) -> Option<Header> {
        let ports = self.ports?;
        let mut flags = 0;
        let mut len = 0;
        let op = match self.state {
            State::Line(_) | State::Requested => return None,
            State::Request => {
                self.state = State::Requested;
                op::REQUEST
            }
            State::Respond => {
                self.state = State::Open;
                op::RESPONSE
            }
            State::Open => {
                len = self.next_payload(room, bytes);
                let shutdown = self.next_shutdown();
                if len > 0 {
                    op::RW
                } else if shutdown & !self.sent_shutdown != 0 {
                    self.sent_shutdown = shutdown;
                    flags = shutdown;
                    if shutdown == SHUTDOWN_BOTH {
                        self.stream = None;
                        self.to_host.clear();
                    }
                    op::SHUTDOWN
                } else if self.owes_credit {
                    op::CREDIT_UPDATE
                } else {
                    return None;
                }
            }
        };
        self.told = self.forwarded;
        self.owes_credit = false;
        self.sent = self.sent.wrapping_add(len);
        Some(Header {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            len,
            kind: STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
        })
    }

    /// Fills `bytes` from the host program, as far as the guest's credit and the packet's room go.
    fn next_payload(&mut self, room: usize, bytes: &mut [u8]) -> u32 {
        let under_way = self.sent.wrapping_sub(self.guest_consumed);
        let credit = usize::try_from(self.guest_buffer.saturating_sub(under_way)).unwrap_or(0);
        let room = room.min(credit).min(MAX_PAYLOAD);
        if room == 0 {
            return 0;
        }
        if self.to_guest.is_empty() {
            let len = self.read(credit.min(bytes.len()), bytes);
            let now = len.min(room);
            self.to_guest.extend(&bytes[now..len]);
            return u32::try_from(now).unwrap_or(0);
        }
        // Reading from a deque takes what is contiguous.
        let len = self.to_guest.read(&mut bytes[..room]).unwrap_or(0);
        if self.to_guest.is_empty() {
            self.to_guest = VecDeque::new();
        }
        u32::try_from(len).unwrap_or(0)
    }

    fn read(&mut self, most: usize, bytes: &mut [u8]) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        while self.readable && !self.host_sent_all {
            match stream.read(&mut bytes[..most]) {
                Ok(0) => self.host_sent_all = true,
                Ok(len) => return len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.host_sent_all = true;
                    self.host_closed = true;
                }
            }
        }
        0
    }

    /// Returns which directions the host program has closed, once its bytes are sent.
    fn next_shutdown(&self) -> u32 {
        match (self.host_sent_all && self.to_guest.is_empty(), self.host_closed) {
            (false, _) => 0,
            (true, false) => SHUTDOWN_SEND,
            (true, true) => SHUTDOWN_BOTH,
        }
    }
}

/// Writes what the host program takes now, which may be nothing.
fn write(stream: &mut Option<UnixStream>, bytes: &[u8]) -> Result<usize, End> {
    let Some(stream) = stream else { return Err(End::Reset) };
    loop {
        match stream.write(bytes) {
            Ok(written) => return Ok(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(End::Reset),
        }
    }
}
