//! The wire between the host and `banger-agent` in a guest.
//!
//! One connection carries one operation. The agent speaks first:
//!
//! ```text
//! agent → host   Greeting                          generation, boot marks
//! host  → agent  Request                           ping | configure | exec | power_off | inspect | ports | copy
//!                                                  | sftp | connect | listen | take
//! agent → host   Reply                             one, or for exec, copy and sftp: started … exited; for connect
//!                                                  and take: connected … closed; for listen: listening, called …
//! ```
//!
//! During an exec, data frames (`stdin` towards the guest, `stdout` and `stderr` from it) and
//! [`ExecControl`] messages pass between `started` and `exited`. An empty data frame ends its stream. At most
//! [`STDIN_WINDOW`] bytes of stdin are on their way at a time, so that a program that reads nothing never keeps a
//! signal from getting through.
//!
//! A socket in the guest is a program as far as frames go: `stdin` goes to it under the same window, `stdout` comes from
//! it, and either end of a stream is a half-close. A listener's connection tells of each caller by a number, and a caller
//! is taken by a connection of its own.
//!
//! Either side may have dialled: when a guest boots, its agent dials [`READY_PORT`] on the host once, or the port that
//! `banger.ready=` on the kernel's command line names, and that connection is an ordinary one from the greeting on. Later the host dials [`AGENT_PORT`].
//!
//! The protocol only grows. An agent stays in its VM through upgrades of the host, so fields are added with
//! defaults, unknown fields are ignored, and a request an agent does not know is answered `failed: unsupported`.
//!
//! Nothing here does I/O: bytes in, values out.

mod frame;
mod init;
mod message;

pub use frame::{Decoder, Frame, FrameError, HEADER_LEN, MAX_CONTROL, MAX_DATA, Stream};
pub use init::{Executable, InitKind, Root, find_init, kind_of_init};
pub use message::{
    AddressConfig, BootMark, Configure, Connect, CopyDirection, CopyFiles, DiskUsage, Endpoint, Exec,
    ExecControl, ExitStatus, FailureKind, Greeting, Inspection, InterfaceUsage, Listen, Listener,
    NetworkConfig, OwnFailure, PowerOff, Reply, Request, Sftp, Take, TerminalSize, Transport, Workspace,
    WorkspaceAction,
};

/// Counts the additions to the protocol; told in the greeting, never refused.
pub const GENERATION: u32 = 5;

/// The vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1024;

/// The vsock port on the host that the agent dials once, when the guest is up.
pub const READY_PORT: u32 = 1025;

/// The first generation of agents that give programs the image's variables.
pub const GENERATION_OF_VARIABLES: u32 = 5;

/// The first generation of agents that know sftp, sockets, and a command line in [`Exec`].
pub const GENERATION_OF_SOCKETS: u32 = 3;

/// Bytes of stdin that the host may send beyond those that [`Reply::Taken`] has told of.
pub const STDIN_WINDOW: usize = 1 << 20;
