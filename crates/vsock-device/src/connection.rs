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

/// Maximum number of bytes from the guest that a connection buffers for a slow host program.
const BUFFER_SIZE: u32 = 256 << 10;

/// Maximum length of a host program's first line, in bytes; `CONNECT 4294967295\n` has 19.
const MAX_LINE: usize = 32;

/// The ports of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// The state of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The host program sends its `CONNECT` line.
    Line(Vec<u8>),
    /// The device has to send the REQUEST to the guest.
    Request,
    /// The device waits for the guest to answer the REQUEST.
    Requested,
    /// The device has to send the RESPONSE to the guest's REQUEST.
    Respond,
    /// Bytes flow.
    Open,
}

/// End of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The device sends the guest a RST.
    Reset,
    /// The guest has ended the connection, or never knew of it.
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
    /// The stream may have bytes to read.
    readable: bool,
    /// The host program sends no more; `to_guest` has the rest.
    host_sent_all: bool,
    /// The host program has closed its side.
    host_closed: bool,
    /// Bytes that were read and did not fit in a packet.
    to_guest: VecDeque<u8>,
    /// Bytes from the guest that could not be written to the host program yet.
    to_host: VecDeque<u8>,
    /// The flags of the guest's SHUTDOWN.
    guest_shutdown: u32,
    /// The flags of the SHUTDOWN sent to the guest.
    sent_shutdown: u32,
    /// The guest requested a credit update, or much credit was freed since the last one.
    credit_due: bool,
    /// Bytes written to the host program, modulo 2^32, and that number as last reported to the guest.
    forwarded: u32,
    reported: u32,
    /// Bytes sent to the guest, modulo 2^32; the size of its buffer, and the bytes that it has consumed.
    sent: u32,
    guest_buffer: u32,
    guest_consumed: u32,
    /// The value of `sent` when the device last requested credit from the guest.
    requested: u32,
    /// True while epoll watches the stream for writability.
    pub(crate) watches_writing: bool,
    /// True while the connection is in the muxer's queue.
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
            credit_due: false,
            forwarded: 0,
            reported: 0,
            sent: 0,
            guest_buffer: 0,
            guest_consumed: 0,
            requested: 0,
            watches_writing: false,
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
        connection.record_credit(request);
        connection
    }

    fn record_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_consumed = header.fwd_cnt;
    }

    pub(crate) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// Returns whether bytes wait for the host program to read.
    pub(crate) fn has_pending_writes(&self) -> bool {
        self.stream.is_some() && !self.to_host.is_empty()
    }

    /// Returns whether the connection only waits for the guest's RST.
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

    /// Reads the host program's line. Returns the guest's port once it is complete.
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
            // Bytes for the guest follow the line.
            self.to_guest.extend(&line[end + 1..]);
            return port.map(Some).ok_or(End::Silent);
        }
    }

    /// Requests the connection from the guest.
    pub(crate) fn request(&mut self, ports: Ports) {
        self.ports = Some(ports);
        self.state = State::Request;
    }

    /// Handles an event of the stream; `closed` means that the host program has closed it.
    pub(crate) fn stream_event(&mut self, closed: bool) -> Result<(), End> {
        self.readable = true;
        self.host_closed |= closed;
        if self.host_closed && matches!(self.state, State::Request | State::Requested) {
            return Err(self.end());
        }
        self.flush()
    }

    /// Writes buffered bytes to the host program.
    fn flush(&mut self) -> Result<(), End> {
        while !self.to_host.is_empty() {
            let (bytes, _) = self.to_host.as_slices();
            let written = write(&mut self.stream, bytes)?;
            if written == 0 {
                break;
            }
            self.to_host.drain(..written);
            self.count_forwarded(written);
        }
        self.forward_shutdown()
    }

    fn count_forwarded(&mut self, bytes: usize) {
        // At most the size of a buffer.
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(0));
        self.credit_due |= self.forwarded.wrapping_sub(self.reported) >= BUFFER_SIZE / 4;
    }

    /// Passes on the guest's SHUTDOWN once the bytes before it are written.
    fn forward_shutdown(&mut self) -> Result<(), End> {
        if !self.to_host.is_empty() {
            return Ok(());
        }
        // A connection without ports was kept only for these bytes.
        if self.guest_shutdown == SHUTDOWN_BOTH || self.ports.is_none() && self.state == State::Open {
            return Err(End::Reset);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0
            && let Some(stream) = &self.stream
        {
            // This fails if the host program has closed the stream, which is an event of its own.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Handles a packet from the guest.
    pub(crate) fn receive(&mut self, header: &Header, payload: &[u8]) -> Result<(), End> {
        self.record_credit(header);
        match (header.op, &self.state) {
            (op::RST, _) => {
                let is_graceful = self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.to_host.is_empty();
                if !is_graceful {
                    return Err(End::Silent);
                }
                // Linux waits 8 s for the answer to its SHUTDOWN. The host program may still read the rest.
                self.ports = None;
                Ok(())
            }
            (op::RESPONSE, State::Requested) => {
                self.state = State::Open;
                let line = format!("OK {}\n", self.ports.map_or(0, |ports| ports.host));
                // Nothing was written before, so the socket's buffer has room.
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
                        // This fails if the host program has closed the stream, which is an event of its own.
                        let _ = stream.shutdown(Shutdown::Read);
                    }
                }
                self.forward_shutdown()
            }
            (op::CREDIT_UPDATE, State::Open) => Ok(()),
            (op::CREDIT_REQUEST, State::Open) => {
                self.credit_due = true;
                Ok(())
            }
            _ => Err(End::Reset),
        }
    }

    fn receive_bytes(&mut self, mut payload: &[u8]) -> Result<(), End> {
        if self.to_host.is_empty() {
            let written = write(&mut self.stream, payload)?;
            payload = &payload[written..];
            self.count_forwarded(written);
        }
        // The guest has sent more than its credit.
        if self.to_host.len() + payload.len() > BUFFER_SIZE as usize {
            return Err(End::Reset);
        }
        self.to_host.extend(payload);
        Ok(())
    }

    /// Returns the next packet for the guest, with its payload of at most `capacity` bytes in `bytes`.
    pub(crate) fn next_packet(
        &mut self,
        guest_cid: u64,
        capacity: usize,
        bytes: &mut [u8],
    ) -> Option<Header> {
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
            // Linux itself reports credit only after most of its buffer was used, and then waits for bytes.
            State::Open if self.sent.wrapping_sub(self.requested) > self.guest_buffer / 4 => {
                self.requested = self.sent;
                op::CREDIT_REQUEST
            }
            State::Open => {
                len = self.next_payload(capacity, bytes);
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
                } else if self.credit_due {
                    op::CREDIT_UPDATE
                } else {
                    return None;
                }
            }
        };
        self.reported = self.forwarded;
        self.credit_due = false;
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
            buf_alloc: BUFFER_SIZE,
            fwd_cnt: self.forwarded,
        })
    }

    /// Reads the next payload from the host program, limited by the guest's credit and `capacity`.
    fn next_payload(&mut self, capacity: usize, bytes: &mut [u8]) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_consumed);
        let credit = usize::try_from(self.guest_buffer.saturating_sub(in_flight)).unwrap_or(0);
        let capacity = capacity.min(credit).min(MAX_PAYLOAD);
        if capacity == 0 {
            return 0;
        }
        if self.to_guest.is_empty() {
            let len = self.read(credit.min(bytes.len()), bytes);
            let now = len.min(capacity);
            self.to_guest.extend(&bytes[now..len]);
            return u32::try_from(now).unwrap_or(0);
        }

        let len = self.to_guest.read(&mut bytes[..capacity]).unwrap_or(0);
        if self.to_guest.is_empty() {
            self.to_guest = VecDeque::new();
        }
        u32::try_from(len).unwrap_or(0)
    }

    fn read(&mut self, max: usize, bytes: &mut [u8]) -> usize {
        let Some(stream) = &mut self.stream else { return 0 };
        while self.readable && !self.host_sent_all {
            match stream.read(&mut bytes[..max]) {
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

/// Writes without blocking. Returns the number of bytes written, which may be 0.
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
