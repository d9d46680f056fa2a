//! The JSON messages that control frames carry.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// The first message on every connection, from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Protocol generation of this agent; see [`GENERATION`](crate::GENERATION).
    pub generation: u32,
    /// Version of the agent, for people.
    pub version: String,
    /// The guest's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Boot steps of the agent, in order.
    #[serde(default)]
    pub boot: Vec<BootMark>,
    /// The init that runs as PID 1; `None` if the agent does.
    #[serde(default)]
    pub init: Option<String>,
}

/// A completed step of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMark {
    /// Name of the step: `init`, `modules`, `root`, `work_disk`, `listening`.
    pub name: String,
    /// Microseconds since the guest's kernel started.
    pub at_us: u64,
}

/// A request of the host, one per connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::Pong`].
    Ping,
    /// Sets the guest's identity; answered by [`Reply::Configured`]. May be sent again at any time.
    Configure(Box<Configure>),
    /// Runs a program; answered by [`Reply::Started`], later [`Reply::Exited`].
    Exec(Exec),
    /// Syncs and ends the guest; answered by [`Reply::PoweringOff`] once the file systems are synced.
    PowerOff(PowerOff),
    /// Inspects the guest; answered by [`Reply::Inspected`]. Since generation 2.
    Inspect,
    /// Lists the guest's listeners; answered by [`Reply::Ports`]. Since generation 2.
    Ports,
    /// Copies files, as an exec whose stdin or stdout is a stream of `banger-files`. Its stderr has a line for each
    /// file that is skipped; if it fails, the last line says why. Since generation 2.
    Copy(CopyFiles),
    /// Works on a workspace, as an exec; the action defines its stdin and stdout. Its stderr is as for
    /// [`Copy`](Self::Copy). Since generation 3.
    Workspace(Workspace),
    /// Serves SFTP, version 3, on stdin and stdout, as an exec. Since generation 3.
    Sftp(Sftp),
    /// Connects to a socket in the guest; answered by [`Reply::Connected`], later [`Reply::Closed`]. Since
    /// generation 3.
    Connect(Connect),
    /// Listens in the guest while this connection is open; answered by [`Reply::Listening`], then by
    /// [`Reply::Incoming`] for each incoming connection. Since generation 3.
    Listen(Listen),
    /// Accepts an incoming connection; answered as [`Connect`](Self::Connect) is. Since generation 3.
    #[serde(rename = "take")]
    Accept(Accept),
    /// Reports the guest's TCP listeners while this connection is open; answered by [`Reply::Ports`] at once and after
    /// each change, without processes. Since generation 6.
    WatchPorts,
    /// Connects to a UDP port of the guest's loopback; answered by [`Reply::Connected`]. Then each data frame is a
    /// datagram, without windows, until one side disconnects. Since generation 6.
    Datagrams(Datagrams),
    /// Lists the destinations of the guest's connections; answered by [`Reply::Connections`]. Since generation 8.
    Connections,
    /// A request of a later generation.
    #[serde(other)]
    Unknown,
}

/// A guest's identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// Host name, also written to `/etc/hosts` and `/etc/hostname`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Additional lines for `/etc/hosts`: names by address.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// The guest's network; `None` leaves it unchanged.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// Time to set the clock to, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub clock_ns: Option<u64>,
    /// Name of a time zone to set, such as `Europe/Berlin`, if the image has it. Since generation 3.
    #[serde(default)]
    pub timezone: Option<String>,
    /// Authorized keys of root, if the image has an sshd: a line each, as in an `authorized_keys` file. An empty list
    /// leaves the guest's unchanged. Since generation 4.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// Name of a locale to set, such as `de_DE.UTF-8`, if the image has it. Since generation 4.
    #[serde(default)]
    pub locale: Option<String>,
    /// The image's variables, as `NAME=VALUE`, for every program run for the host. Since generation 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Certificates for the system's store, each a PEM text, in place of those of an earlier message; `None` leaves the
    /// guest's unchanged. Since generation 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<String>>,
}

/// A guest's network interface, addresses, routes and resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Interface name in the guest, such as `eth0`.
    pub interface: String,
    /// Addresses of the interface.
    pub addresses: Vec<AddressConfig>,
    /// Default gateway.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers for `/etc/resolv.conf`; an empty list leaves the file unchanged.
    #[serde(default)]
    pub nameservers: Vec<Ipv4Addr>,
    /// Maximum size of a packet in bytes; `None` keeps the interface's own.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// IPv6 addresses of the interface. Since generation 6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses_v6: Vec<AddressV6Config>,
    /// Default gateway for IPv6. Since generation 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_v6: Option<Ipv6Addr>,
    /// Search domains for `/etc/resolv.conf`. Since generation 6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// An address with its prefix length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressConfig {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length in bits, 0 to 32.
    pub prefix: u8,
}

/// An IPv6 address with its prefix length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressV6Config {
    /// The address.
    pub address: Ipv6Addr,
    /// Prefix length in bits, 0 to 128.
    pub prefix: u8,
}

/// A program to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments. Empty means a login shell of the user.
    #[serde(default)]
    pub argv: Vec<String>,
    /// A command line in bytes that the user's shell runs in place of `argv`. Since generation 3; older agents ignore
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<Vec<u8>>,
    /// Environment variables in addition to the user's login environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `None` is the user's home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User by name or number, as in `/etc/passwd`; `None` is root. Since generation 5 also `USER:GROUP`, and numbers
    /// that no file lists.
    #[serde(default)]
    pub user: Option<String>,
    /// Size of the program's terminal; `None` for three pipes.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Whether the host will send stdin; otherwise it is empty from the start.
    #[serde(default)]
    pub stdin: bool,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub cols: u16,
}

/// Messages of the host while a program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum ExecControl {
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// Sends this signal, by its Linux number, to the program's process group.
    Signal {
        /// Signal number, 1 to 64.
        signal: i32,
    },
    /// A message of a later generation.
    #[serde(other)]
    Unknown,
}

/// Options for ending the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOff {
    /// Time that the host waits for the guest to end, in milliseconds. Since generation 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// Files to copy from the guest or into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFiles {
    /// Direction of the copy.
    pub direction: CopyDirection,
    /// Path in the guest, as the bytes of its file system; relative to the user's home.
    pub path: Vec<u8>,
    /// Whether to follow `path` if it is a symbolic link.
    #[serde(default)]
    pub follow: bool,
    /// User who reads or owns the files, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// Direction of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyDirection {
    /// From the guest, on the exec's stdout.
    Out,
    /// Into the guest, on the exec's stdin.
    In,
}

/// A directory in the guest for a workspace, and an action on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Absolute path of the directory, as the bytes of the guest's file system.
    pub path: Vec<u8>,
    /// The action.
    pub action: WorkspaceAction,
}

/// Exit statuses of an exec of the agent itself that fails; they are Linux's error numbers. Any other status is a
/// failure of no particular kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SubcommandFailure {
    /// The file or directory does not exist.
    NotFound = 2,
    /// Another process is working on it.
    Busy = 16,
    /// The target already exists.
    Exists = 17,
    /// The disk is full.
    NoSpace = 28,
}

impl SubcommandFailure {
    /// Returns the failure with this exit status, if there is one.
    pub fn of(status: u8) -> Option<Self> {
        [Self::NotFound, Self::Busy, Self::Exists, Self::NoSpace]
            .into_iter()
            .find(|kind| *kind as u8 == status)
    }
}

/// An action on a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceAction {
    /// Places the tree of `banger-files` from stdin at a path where nothing exists. Writes a time to stdout (a time
    /// of `banger-files`, 12 bytes): files that have not changed since then are as sent.
    Place,
    /// Applies the changes of `banger-files` from stdin to an existing workspace. Writes a time as
    /// [`Place`](Self::Place) does.
    Change,
    /// Writes a listing of `banger-files` to stdout.
    List,
    /// Writes files and links to stdout as a stream of `banger-files`. Reads their paths from stdin, each ended by a
    /// zero byte. Missing paths are left out.
    Fetch,
}

/// The user of an SFTP session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sftp {
    /// User by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// A socket in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// An address or a name. To listen: `localhost` for loopback, empty or `*` for all addresses.
        host: String,
        /// The port. To listen: 0 for any free port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix {
        /// Its path, in bytes.
        path: Vec<u8>,
    },
}

/// A socket to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Endpoint of the socket.
    pub to: Endpoint,
    /// User with whose rights to connect, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// A UDP port to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// The port.
    pub port: u16,
}

/// A socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Endpoint of the socket; `None` is a socket in a private directory, which only the user can reach.
    #[serde(default)]
    pub at: Option<Endpoint>,
    /// User with whose rights to listen, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// An incoming connection to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// Its number, from [`Reply::Incoming`].
    #[serde(rename = "caller")]
    pub id: u64,
}

/// A reply of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To a ping.
    Pong,
    /// To configure: everything is applied.
    Configured,
    /// To exec: the program has started.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// During exec: the program has read this many more bytes of its stdin; see
    /// [`STDIN_WINDOW`](crate::STDIN_WINDOW).
    #[serde(rename = "taken")]
    Acknowledged {
        /// Number of bytes.
        bytes: u32,
    },
    /// To exec, as the last reply: the program has ended, and all its output was sent.
    Exited {
        /// Exit status of the program.
        status: ExitStatus,
    },
    /// To inspect.
    Inspected(Inspection),
    /// To ports, and repeatedly to a watch of ports.
    Ports {
        /// All listeners, sorted by port.
        listeners: Vec<Listener>,
    },
    /// To connections.
    Connections {
        /// The destinations, those used last first; none if the guest's kernel cannot record them.
        connections: Vec<Connection>,
    },
    /// To connect, accept and datagrams: data can flow in both directions.
    Connected,
    /// To connect and accept, as the last reply: both directions have ended, and all data was sent.
    Closed,
    /// To listen.
    Listening {
        /// Endpoint of the listener, with the port or path that was chosen.
        at: Endpoint,
    },
    /// During listen: a connection waits for the host to accept it.
    #[serde(rename = "called")]
    Incoming {
        /// Number of the connection, for [`Accept`].
        #[serde(rename = "caller")]
        id: u64,
        /// Address of the peer, if it has one.
        #[serde(default)]
        from: Option<SocketAddr>,
    },
    /// To power off: file systems are synced, the guest shuts down.
    PoweringOff,
    /// In place of any other reply.
    Failed {
        /// Kind of failure, for programs.
        kind: FailureKind,
        /// Message for people: what failed and why.
        message: String,
    },
}

impl Reply {
    /// Returns the reply's name, for messages: its content may be of any length.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pong => "pong",
            Self::Configured => "configured",
            Self::Started { .. } => "started",
            Self::Acknowledged { .. } => "taken",
            Self::Exited { .. } => "exited",
            Self::Inspected(_) => "inspected",
            Self::Ports { .. } => "ports",
            Self::Connections { .. } => "connections",
            Self::Connected => "connected",
            Self::Closed => "closed",
            Self::Listening { .. } => "listening",
            Self::Incoming { .. } => "called",
            Self::PoweringOff => "powering_off",
            Self::Failed { .. } => "failed",
        }
    }
}

/// State of the guest, as the agent reports it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Time since the guest's kernel started, in milliseconds.
    #[serde(default)]
    pub uptime_ms: u64,
    /// The guest's clock, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub clock_ns: u64,
    /// Average number of running or waiting programs over the last minute.
    #[serde(default)]
    pub load: f64,
    /// Total memory in bytes.
    #[serde(default)]
    pub memory_total: u64,
    /// Memory available to programs, in bytes.
    #[serde(default)]
    pub memory_available: u64,
    /// File systems of the VM's disks.
    #[serde(default)]
    pub disks: Vec<DiskUsage>,
    /// Network interfaces, except loopback.
    #[serde(default)]
    pub interfaces: Vec<InterfaceUsage>,
}

/// A file system in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Mount point: `/`, `/root`.
    pub path: String,
    /// Its size in bytes.
    pub total: u64,
    /// Free space for programs, in bytes.
    pub available: u64,
}

/// A network interface in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceUsage {
    /// Its name.
    pub name: String,
    /// Bytes received since it came up.
    pub received: u64,
    /// Bytes sent since it came up.
    pub sent: u64,
}

/// A listening socket in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Transport protocol.
    pub protocol: Transport,
    /// Address at which it listens; unspecified for all addresses.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// A process that has it open.
    #[serde(default)]
    pub pid: Option<u32>,
    /// That process's name.
    #[serde(default)]
    pub process: Option<String>,
    /// Whether it responded to an HTTP request.
    #[serde(default)]
    pub http: bool,
}

/// A destination of the guest's connections or datagrams, and the process that used it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Transport protocol.
    pub protocol: Transport,
    /// Address of the destination.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The process, which may have ended.
    pub pid: u32,
    /// Name of the process, or of its thread that used the destination.
    pub process: String,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Exit status of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// The program exited with this code, 0 to 255.
    Code(u8),
    /// A signal killed the program; its Linux number.
    Signal(i32),
}

impl ExitStatus {
    /// Returns the status as a shell reports it: 128 + n for signal n.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + i64::from(signal)).unwrap_or(u8::MAX),
        }
    }
}

/// Kinds of failure in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program, user or directory does not exist.
    NotFound,
    /// It exists, but its use is not permitted.
    NotPermitted,
    /// The request is invalid.
    Invalid,
    /// This agent does not know the request.
    Unsupported,
    /// Any other failure; see the message.
    #[serde(other)]
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_later_generation_parses_as_unknown() {
        let request: Request = serde_json::from_str(r#"{"op":"teleport","where":"mars"}"#).unwrap();
        assert_eq!(request, Request::Unknown);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let request: Request = serde_json::from_str(r#"{"op":"exec","argv":["true"],"nice":5}"#).unwrap();
        assert_eq!(request, Request::Exec(Exec { argv: vec!["true".into()], ..Exec::default() }));
    }

    #[test]
    fn messages_of_generation_1_keep_their_encoding() {
        let wire = [
            serde_json::to_string(&Request::Exec(Exec {
                argv: vec!["make".into(), "test".into()],
                env: [("A".to_owned(), "b".to_owned())].into(),
                cwd: Some("/root/repo".into()),
                user: Some("dev".into()),
                terminal: Some(TerminalSize { rows: 24, cols: 80 }),
                stdin: true,
                command_line: None,
            }))
            .unwrap(),
            serde_json::to_string(&Reply::Exited { status: ExitStatus::Signal(9) }).unwrap(),
            serde_json::to_string(&Reply::Failed { kind: FailureKind::NotFound, message: "no".into() })
                .unwrap(),
        ];
        assert_eq!(
            wire,
            [
                r#"{"op":"exec","argv":["make","test"],"env":{"A":"b"},"cwd":"/root/repo","user":"dev","terminal":{"rows":24,"cols":80},"stdin":true}"#,
                r#"{"reply":"exited","status":{"signal":9}}"#,
                r#"{"reply":"failed","kind":"not_found","message":"no"}"#,
            ]
        );
    }

    #[test]
    fn messages_of_generation_2_keep_their_encoding() {
        let copy = CopyFiles { direction: CopyDirection::In, path: b"/a".into(), follow: true, user: None };
        let listener = Listener {
            protocol: Transport::Tcp,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 80,
            pid: Some(7),
            process: Some("httpd".into()),
            http: true,
        };
        let wire = [
            serde_json::to_string(&Request::Ports).unwrap(),
            serde_json::to_string(&Request::Copy(copy)).unwrap(),
            serde_json::to_string(&Reply::Ports { listeners: vec![listener] }).unwrap(),
        ];
        assert_eq!(
            wire,
            [
                r#"{"op":"ports"}"#,
                r#"{"op":"copy","direction":"in","path":[47,97],"follow":true,"user":null}"#,
                r#"{"reply":"ports","listeners":[{"protocol":"tcp","address":"127.0.0.1","port":80,"pid":7,"process":"httpd","http":true}]}"#,
            ]
        );
    }

    #[test]
    fn messages_of_generation_3_keep_their_encoding() {
        let list = Workspace { path: b"/r".into(), action: WorkspaceAction::List };
        let wire = serde_json::to_string(&Request::Workspace(list)).unwrap();
        assert_eq!(wire, r#"{"op":"workspace","path":[47,114],"action":"list"}"#);
        assert_eq!(SubcommandFailure::of(28), Some(SubcommandFailure::NoSpace));
        assert_eq!(SubcommandFailure::of(1), None);
        let tcp = Endpoint::Tcp { host: "localhost".into(), port: 80 };
        let unix = Endpoint::Unix { path: b"/a".into() };
        let wire = [
            serde_json::to_string(&Request::Sftp(Sftp { user: None })).unwrap(),
            serde_json::to_string(&Request::Connect(Connect { to: tcp, user: Some("dev".into()) })).unwrap(),
            serde_json::to_string(&Request::Listen(Listen { at: Some(unix.clone()), user: None })).unwrap(),
            serde_json::to_string(&Request::Accept(Accept { id: 7 })).unwrap(),
            serde_json::to_string(&Exec { command_line: Some(b"a".into()), ..Exec::default() }).unwrap(),
            serde_json::to_string(&Reply::Connected).unwrap(),
            serde_json::to_string(&Reply::Closed).unwrap(),
            serde_json::to_string(&Reply::Listening { at: unix }).unwrap(),
            serde_json::to_string(&Reply::Incoming { id: 7, from: "127.0.0.1:9".parse().ok() }).unwrap(),
        ];
        assert_eq!(
            wire,
            [
                r#"{"op":"sftp","user":null}"#,
                r#"{"op":"connect","to":{"tcp":{"host":"localhost","port":80}},"user":"dev"}"#,
                r#"{"op":"listen","at":{"unix":{"path":[47,97]}},"user":null}"#,
                r#"{"op":"take","caller":7}"#,
                r#"{"argv":[],"command_line":[97],"env":{},"cwd":null,"user":null,"terminal":null,"stdin":false}"#,
                r#"{"reply":"connected"}"#,
                r#"{"reply":"closed"}"#,
                r#"{"reply":"listening","at":{"unix":{"path":[47,97]}}}"#,
                r#"{"reply":"called","caller":7,"from":"127.0.0.1:9"}"#,
            ]
        );
    }

    #[test]
    fn messages_of_generation_4_keep_their_encoding() {
        let configure = Configure {
            authorized_keys: vec!["ssh-ed25519 AAAA".into()],
            locale: Some("de_DE.UTF-8".into()),
            ..Configure::default()
        };
        assert_eq!(
            serde_json::to_string(&Request::Configure(Box::new(configure))).unwrap(),
            r#"{"op":"configure","hostname":null,"hosts":{},"network":null,"clock_ns":null,"timezone":null,"authorized_keys":["ssh-ed25519 AAAA"],"locale":"de_DE.UTF-8"}"#
        );
        let older: Configure = serde_json::from_str(r#"{"timezone":"UTC"}"#).unwrap();
        assert_eq!(older, Configure { timezone: Some("UTC".into()), ..Configure::default() });
    }

    #[test]
    fn messages_of_generation_5_keep_their_encoding() {
        let off = Request::PowerOff(PowerOff { grace_ms: Some(10_000) });
        assert_eq!(serde_json::to_string(&off).unwrap(), r#"{"op":"power_off","grace_ms":10000}"#);
        let configure = Configure { env: vec!["A=b".into()], ..Configure::default() };
        let wire = serde_json::to_string(&configure).unwrap();
        assert!(wire.ends_with(r#""locale":null,"env":["A=b"]}"#), "{wire}");
    }

    #[test]
    fn messages_of_generation_6_keep_their_encoding() {
        let network = NetworkConfig {
            interface: "eth0".into(),
            addresses: Vec::new(),
            gateway: None,
            nameservers: Vec::new(),
            mtu: Some(1500),
            addresses_v6: vec![AddressV6Config { address: Ipv6Addr::LOCALHOST, prefix: 64 }],
            gateway_v6: Some(Ipv6Addr::LOCALHOST),
            search: vec!["example".into()],
        };
        assert_eq!(
            serde_json::to_string(&network).unwrap(),
            r#"{"interface":"eth0","addresses":[],"gateway":null,"nameservers":[],"mtu":1500,"addresses_v6":[{"address":"::1","prefix":64}],"gateway_v6":"::1","search":["example"]}"#
        );
        let older: NetworkConfig = serde_json::from_str(r#"{"interface":"eth0","addresses":[]}"#).unwrap();
        assert_eq!((older.addresses_v6.len(), older.gateway_v6, older.search.len()), (0, None, 0));
        assert_eq!(serde_json::to_string(&Request::WatchPorts).unwrap(), r#"{"op":"watch_ports"}"#);
        let datagrams = Request::Datagrams(Datagrams { port: 53 });
        assert_eq!(serde_json::to_string(&datagrams).unwrap(), r#"{"op":"datagrams","port":53}"#);
    }

    #[test]
    fn messages_of_generation_7_keep_their_encoding() {
        let configure = Configure { certificates: Some(vec!["PEM".into()]), ..Configure::default() };
        let wire = serde_json::to_string(&configure).unwrap();
        assert!(wire.ends_with(r#""locale":null,"certificates":["PEM"]}"#), "{wire}");
    }

    #[test]
    fn messages_of_generation_8_keep_their_encoding() {
        let connection = Connection {
            protocol: Transport::Udp,
            address: Ipv6Addr::LOCALHOST.into(),
            port: 53,
            pid: 212,
            process: "curl".into(),
        };
        assert_eq!(serde_json::to_string(&Request::Connections).unwrap(), r#"{"op":"connections"}"#);
        assert_eq!(
            serde_json::to_string(&Reply::Connections { connections: vec![connection] }).unwrap(),
            r#"{"reply":"connections","connections":[{"protocol":"udp","address":"::1","port":53,"pid":212,"process":"curl"}]}"#
        );
    }

    #[test]
    fn the_shell_code_of_a_signal_is_128_plus_its_number() {
        assert_eq!(ExitStatus::Signal(15).shell_code(), 143);
        assert_eq!(ExitStatus::Code(42).shell_code(), 42);
    }
}
