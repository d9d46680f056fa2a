//! The virtio-vsock device of a QEMU guest, as a vhost-user process.
//!
//! QEMU's `vhost-user-vsock-pci` connects to the vhost-user socket and shares the guest's memory and two virtqueues:
//! *rx* carries packets to the guest, *tx* packets from it. On the host, the device speaks Firecracker's hybrid vsock
//! protocol (Firecracker, docs/vsock.md): a program connects to a Unix socket and sends `CONNECT <port>\n`; the device
//! answers `OK <host port>\n` when the guest has accepted. The guest may open one connection to one port, with which
//! its agent announces itself: the device opens it to `<socket>_<port>` at its start. So when the first packet of the
//! guest arrives, the device needs no more files, sockets or programs, and the process gives up the right to use any.
//!
//! One thread and one epoll serve everything: requests of QEMU, the guest's notifications and the host's sockets. So
//! a queue cannot stop while its packets are processed. After each event, the device does all work that is possible.
//! While QEMU has stopped the queues, as it does for a paused VM, events only mark work.
//!
//! | module | contents |
//! |---|---|
//! | `device` | the event loop and the sockets |
//! | `vhost_user` | QEMU's requests: features, memory, queues |
//! | `ring` | one virtqueue |
//! | `muxer` | all connections, and the packets between them and the rings |
//! | `connection` | one connection: state, credit, bytes in flight |
//! | `packet` | the packets' header |
//!
//! The guest is hostile: the device copies a packet before it checks it, and limits the bytes that a connection buffers
//! and the number of connections. It ignores a virtqueue with invalid content until QEMU restarts it.

mod connection;
mod device;
mod muxer;
mod packet;
mod ring;
mod vhost_user;

use std::{
    io::{self, Write},
    path::PathBuf,
};

pub use device::{Config, Device};
pub use muxer::MAX_CONNECTIONS;

/// A failure that ends the device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket cannot be created.
    #[error("cannot create {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Nothing listens for the guest's connection.
    #[error("cannot connect to {}: {source}", path.display())]
    Ready {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// QEMU's connection cannot be accepted.
    #[error("cannot accept the connection from QEMU: {0}")]
    Accept(io::Error),
    /// The process cannot be set up.
    #[error("cannot set up the process: {0}")]
    Process(io::Error),
    /// Waiting for events failed.
    #[error("cannot wait for events: {0}")]
    Wait(io::Error),
}

/// Writes a line to stderr.
///
/// A guest must not be able to cause more than a few of them.
fn log(line: std::fmt::Arguments<'_>) {
    // A closed stderr must not end the device.
    let _ = writeln!(io::stderr(), "{line}");
}
