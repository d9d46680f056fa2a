//! The protocol between the host and `banger-agent` in a guest.
//!
//! One connection carries one operation. The agent speaks first:
//!
//! ```text
//! agent → host   Greeting                          generation, boot marks
//! host  → agent  Request                           ping | configure | exec | power_off | inspect | ports | copy
//!                                                  | workspace | sftp | connect | listen | take | watch_ports
//!                                                  | datagrams | connections
//! agent → host   Reply                             one, or for exec, copy, workspace and sftp: started … exited;
//!                                                  for connect and take: connected … closed;
//!                                                  for listen: listening, called …; for watch_ports: ports …
//! ```
//!
//! During an exec, data frames (`stdin` to the guest, `stdout` and `stderr` from it) and [`ExecControl`] messages
//! pass between `started` and `exited`. An empty data frame ends its stream. The host sends at most [`STDIN_WINDOW`]
//! bytes of stdin ahead, so that a program that does not read never blocks a signal. The agent acknowledges what
//! was consumed: at the latest a quarter of the window, and all of it when no more is waiting.
//!
//! A socket in the guest uses the frames of a program: `stdin` goes to it under the same window, `stdout` comes from
//! it, and the end of either stream is a half-close. A listener's connection reports each incoming connection by a
//! number, and the host accepts it by a separate connection.
//!
//! A connection for datagrams has one in each data frame; either side may lose some, as a network does.
//!
//! Either side may dial. When a guest boots, its agent dials [`READY_PORT`] on the host once, or the port in
//! `banger.ready=` on the kernel command line; that connection is an ordinary one from the greeting on. Later the
//! host dials [`AGENT_PORT`]. Only root in the guest can use the agent's own ports, which are [`PRIVILEGED_PORTS`]: so
//! no other user can answer or call in its place. The host accepts a call from those alone, where it sees the port.
//!
//! The protocol only grows. An agent stays in its VM through upgrades of the host, so new fields have defaults,
//! unknown fields are ignored, and an agent replies `failed: unsupported` to a request that it does not know.
//!
//! This crate does no I/O: bytes in, values out.

mod frame;
mod init;
mod message;

pub use frame::{Decoder, Frame, FrameError, FrameHeader, HEADER_LEN, MAX_CONTROL, MAX_DATA, Stream};
pub use init::{Executable, InitKind, Root, find_init, kind_of_init};
pub use message::{
    Accept, AddressConfig, AddressV6Config, BootMark, Configure, Connect, Connection, CopyDirection,
    CopyFiles, Datagrams, DiskUsage, Endpoint, Exec, ExecControl, ExitStatus, FailureKind, Greeting,
    Inspection, InterfaceUsage, Listen, Listener, NetworkConfig, PowerOff, Reply, Request, Sftp,
    SubcommandFailure, TerminalSize, Transport, Workspace, WorkspaceAction,
};

/// Number of the protocol's last addition; sent in the greeting, never a reason to refuse.
pub const GENERATION: u32 = 8;

/// Vsock ports that only a process with `CAP_NET_BIND_SERVICE` can bind (Linux, net/vmw_vsock/af_vsock.c).
pub const PRIVILEGED_PORTS: std::ops::Range<u32> = 0..1024;

/// Vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1000;

/// Vsock port of agents of an earlier build, and the API's name for any agent's port.
pub const UNPRIVILEGED_AGENT_PORT: u32 = 1024;

/// Vsock port in the guest from which the agent dials the host.
pub const CALL_PORT: u32 = 1001;

/// Vsock port on the host that the agent dials once, when the guest is up.
pub const READY_PORT: u32 = 1025;

/// First generation of agents that set the image's variables for programs.
pub const GENERATION_OF_VARIABLES: u32 = 5;

/// First generation of agents that support SFTP, sockets, and a command line in [`Exec`].
pub const GENERATION_OF_SOCKETS: u32 = 3;

/// First generation of agents that support [`Request::WatchPorts`] and [`Request::Datagrams`].
pub const GENERATION_OF_PORTS: u32 = 6;

/// First generation of agents that support [`Request::Connections`].
pub const GENERATION_OF_CONNECTIONS: u32 = 8;

/// Maximum size of a greeting that the host accepts, in bytes: an agent's has a few hundred.
pub const MAX_GREETING: usize = 16 << 10;

/// Maximum size of a reply that the host accepts, in bytes: a thousand listeners, each with a long name.
pub const MAX_REPLY: usize = 256 << 10;

/// Bytes of stdin that the host may send beyond those acknowledged by [`Reply::Acknowledged`].
pub const STDIN_WINDOW: usize = 1 << 20;
