//! A netlink socket: requests, each with its answer.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink,
    recv, send, socket_with,
};

use super::message::{ACK, Message, messages, request};

/// Size of the buffer for messages from the kernel, in bytes: it sends at most 32 KiB of a dump at a time.
const BUFFER_LEN: usize = 32 << 10;

/// A socket of one protocol.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, sequence: 0 }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

impl Socket {
    /// Opens a socket of a protocol; without one, of `NETLINK_ROUTE`, which is protocol 0.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Opens a non-blocking socket that receives the notifications of `groups` (`RTMGRP_*` of linux/rtnetlink.h).
    pub(super) fn subscribe(groups: u32) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(fd)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Sends a request and waits for its acknowledgement.
    pub(super) fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.exchange(kind, flags | ACK, body, |_| {})
    }

    /// Sends a request and calls `each` for every message of its answer. The kernel answers before the send returns,
    /// so this does not block.
    pub(super) fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.fd, &request(kind, flags, self.sequence, body)?, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let (length, _) = recv(&self.fd, &mut buffer, RecvFlags::empty())?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for message in messages(&buffer[..length.min(BUFFER_LEN)]) {
                if message.sequence != self.sequence {
                    continue;
                }
                if message.ends_answer()? {
                    return Ok(());
                }
                each(message);
            }
        }
    }
}
