//! What ssh can request, and what the server can send.

use bytes::Bytes;

use crate::{
    fields::{Fields, Malformed, Message},
    signal,
};

/// The address of a socket in the server's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP port of a host.
    Tcp {
        /// Name or address of the host.
        host: String,
        /// The port; 0 to listen at any.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: Vec<u8>,
    },
}

/// The other end of a channel that ssh requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A program.
    Session,
    /// A socket to connect to.
    Socket(Address),
    /// A target that does not exist in this version of the protocol, or an invalid port.
    Unknown,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Number of columns, at least 1.
    pub columns: u16,
    /// Number of rows, at least 1.
    pub rows: u16,
}

/// A request about a session that does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Gives the program a terminal.
    Terminal {
        /// Value for `TERM`.
        term: String,
        /// Its size.
        size: TerminalSize,
    },
    /// Sets an environment variable.
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Forwards the user's ssh-agent.
    ForwardAgent,
    /// Runs the user's shell.
    Shell,
    /// Runs a command line with the user's shell.
    Exec(Vec<u8>),
    /// Runs a subsystem such as `sftp`.
    Subsystem(String),
    /// A request that the server does not know.
    Unknown,
}

/// A message about a running session other than data. It does not wait behind data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// A signal by its Linux number.
    Signal(i32),
    /// The reader of the program's output has closed it.
    OutputClosed,
}

/// A request that does not concern a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobalRequest {
    /// Listens at an address.
    Listen(Address),
    /// Stops listening at an address.
    Cancel(Address),
    /// A request that the server does not know, or an invalid port.
    Unknown,
}

/// The answer to a global request; the protocol has no field for the reason of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalAnswer {
    /// It failed, or is unknown.
    Failed,
    /// It succeeded.
    Succeeded,
    /// The server listens at this port; ssh asked for any.
    Port(u16),
}

/// Reason for refusing ssh a channel (RFC 4254, 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The target cannot be reached, with the reason.
    ConnectFailed(String),
    /// The target is unknown.
    UnknownTarget,
    /// There are too many channels.
    TooMany,
}

/// The source of a channel that the server requests from ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A connection to a forwarded port.
    Tcp {
        /// The forwarded address as ssh requested it, and the port that was chosen.
        listener: (String, u16),
        /// Address and port of the caller.
        caller: (String, u16),
    },
    /// A connection to a forwarded Unix socket.
    Unix {
        /// The forwarded path as ssh requested it.
        path: Vec<u8>,
    },
    /// A program that uses the user's ssh-agent.
    Agent,
}

/// How a session's program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(u32),
    /// By a signal, given by its Linux number.
    Signal(i32),
}

impl Refusal {
    pub(crate) fn code_and_reason(&self) -> (u32, &str) {
        match self {
            Self::ConnectFailed(why) => (2, why),
            Self::UnknownTarget => (3, "unknown channel type"),
            Self::TooMany => (4, "too many channels"),
        }
    }
}

impl TerminalSize {
    fn read(fields: &mut Fields) -> Result<Self, Malformed> {
        let mut cells = || Ok(u16::try_from(fields.u32()?.max(1)).unwrap_or(u16::MAX));
        Ok(Self { columns: cells()?, rows: cells()? })
    }
}

impl Address {
    /// Reads a host and a port; returns `None` for an invalid port.
    fn tcp(fields: &mut Fields) -> Result<Option<Self>, Malformed> {
        let (host, port) = (fields.text()?, fields.u32()?);
        Ok(u16::try_from(port).ok().map(|port| Self::Tcp { host, port }))
    }

    fn unix(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(Self::Unix { path: fields.bytes()?.to_vec() })
    }
}

impl Target {
    pub(crate) fn read(kind: &str, fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(match kind {
            "session" => Self::Session,
            "direct-tcpip" => Address::tcp(fields)?.map_or(Self::Unknown, Self::Socket),
            "direct-streamlocal@openssh.com" => Self::Socket(Address::unix(fields)?),
            _ => Self::Unknown,
        })
    }
}

impl Request {
    pub(crate) fn read(kind: &str, fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(match kind {
            "pty-req" => Self::Terminal { term: fields.text()?, size: TerminalSize::read(fields)? },
            "env" => Self::Variable { name: fields.text()?, value: fields.text()? },
            "auth-agent-req@openssh.com" => Self::ForwardAgent,
            "shell" => Self::Shell,
            "exec" => Self::Exec(fields.bytes()?.to_vec()),
            "subsystem" => Self::Subsystem(fields.text()?),
            _ => Self::Unknown,
        })
    }
}

impl Control {
    /// Reads a control message; returns `None` if the request is none.
    pub(crate) fn read(kind: &str, fields: &mut Fields) -> Result<Option<Self>, Malformed> {
        Ok(match kind {
            "window-change" => Some(Self::Resize(TerminalSize::read(fields)?)),
            "eow@openssh.com" => Some(Self::OutputClosed),
            "signal" => signal::number(&fields.text()?).map(Self::Signal),
            _ => None,
        })
    }
}

impl GlobalRequest {
    pub(crate) fn read(kind: &str, fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(match kind {
            "tcpip-forward" => Address::tcp(fields)?.map_or(Self::Unknown, Self::Listen),
            "cancel-tcpip-forward" => Address::tcp(fields)?.map_or(Self::Unknown, Self::Cancel),
            "streamlocal-forward@openssh.com" => Self::Listen(Address::unix(fields)?),
            "cancel-streamlocal-forward@openssh.com" => Self::Cancel(Address::unix(fields)?),
            _ => Self::Unknown,
        })
    }
}

impl Source {
    /// Returns the kind of channel, and its fields.
    pub(crate) fn kind_and_fields(&self) -> (&'static str, Message) {
        let fields = Message::fields();
        match self {
            Self::Tcp { listener: (host, port), caller: (address, caller_port) } => {
                let fields = fields.bytes(host.as_bytes()).u32((*port).into());
                let fields = fields.bytes(address.as_bytes()).u32((*caller_port).into());
                ("forwarded-tcpip", fields)
            }
            // The path, and a field that OpenSSH reserves.
            Self::Unix { path } => ("forwarded-streamlocal@openssh.com", fields.bytes(path).bytes(b"")),
            Self::Agent => ("auth-agent@openssh.com", fields),
        }
    }
}

impl Exit {
    /// Returns the kind of request, and its fields.
    pub(crate) fn kind_and_fields(self) -> (&'static str, Message) {
        match self {
            Self::Status(status) => ("exit-status", Message::fields().u32(status)),
            Self::Signal(number) => {
                let name = signal::name(number);
                let fields = Message::fields().bytes(name.as_bytes());
                ("exit-signal", fields.boolean(false).bytes(b"").bytes(b""))
            }
        }
    }
}

/// A stream of a session's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a socket's data.
    Output,
    /// Standard error (RFC 4254, 5.2).
    Error,
}

/// Incoming data of a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes.
    Data(Bytes),
    /// End of the data; none follows.
    End,
}
