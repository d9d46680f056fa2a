//! The JSON messages that control frames carry.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// The first message on every connection, from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The protocol generation that this agent speaks; see [`GENERATION`](crate::GENERATION).
    pub generation: u32,
    /// The agent's own version, for people.
    pub version: String,
    /// The guest's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// What the agent did while the guest came up, in order.
    #[serde(default)]
    pub boot: Vec<BootMark>,
    /// The init that was given PID 1; `None` when the agent is PID 1.
    #[serde(default)]
    pub init: Option<String>,
}

/// A moment of the guest's boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMark {
    /// What was done by then: `init`, `modules`, `root`, `work_disk`, `listening`.
    pub name: String,
    /// Microseconds since the guest's kernel started.
    pub at_us: u64,
}

/// What the host asks for, once a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::Pong`].
    Ping,
    /// Gives the guest its identity; answered by [`Reply::Configured`]. May come again at any time.
    Configure(Configure),
    /// Runs a program; answered by [`Reply::Started`], later [`Reply::Exited`].
    Exec(Exec),
    /// Syncs and ends the guest; answered by [`Reply::PoweringOff`] once the file systems are synced.
    PowerOff(PowerOff),
    /// Looks at the guest; answered by [`Reply::Inspected`]. Since generation 2.
    Inspect,
    /// Looks for what listens in the guest; answered by [`Reply::Ports`]. Since generation 2.
    Ports,
    /// Copies files, as an exec whose stdin or stdout is a stream of `banger-files`. What it passes over is told on
    /// stderr, a line each; when it fails, the last line says why. Since generation 2.
    Copy(CopyFiles),
    /// Works on a workspace, as an exec whose stdin and stdout are what the action says. Its stderr is as for
    /// [`Copy`](Self::Copy). Since generation 3.
    Workspace(Workspace),
    /// Serves SFTP, version 3, on stdin and stdout, as an exec. Since generation 3.
    Sftp(Sftp),
    /// Connects to a socket in the guest; answered by [`Reply::Connected`], later [`Reply::Closed`]. Since generation 3.
    Connect(Connect),
    /// Listens in the guest for as long as this connection stays; answered by [`Reply::Listening`], then by
    /// [`Reply::Called`] for each caller. Since generation 3.
    Listen(Listen),
    /// Takes a caller; answered as connect is. Since generation 3.
    Take(Take),
    /// A request of a later generation.
    #[serde(other)]
    Unknown,
}

/// A guest's identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// Host name, also put into `/etc/hosts` and `/etc/hostname`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// More lines for `/etc/hosts`: names by address.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// The guest's network; `None` leaves it alone.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// Nanoseconds since the Unix epoch, to set the clock by.
    #[serde(default)]
    pub clock_ns: Option<u64>,
    /// Name of a time zone, such as `Europe/Berlin`, to have where the image knows it. Since generation 3.
    #[serde(default)]
    pub timezone: Option<String>,
    /// Keys by which sshd lets root in, where the image has one: a line each, as in an `authorized_keys` file. None leaves
    /// the guest's alone. Since generation 4.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// Name of a locale, such as `de_DE.UTF-8`, to have where the image knows it. Since generation 4.
    #[serde(default)]
    pub locale: Option<String>,
    /// Variables of every program that is run for the host, as `NAME=VALUE`: the image's. Since generation 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
}

/// A guest's network interface, addresses, routes and resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Interface name in the guest, such as `eth0`.
    pub interface: String,
    /// Addresses to have.
    pub addresses: Vec<AddressConfig>,
    /// Default gateway.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, for `/etc/resolv.conf`; none leaves the file alone.
    #[serde(default)]
    pub nameservers: Vec<Ipv4Addr>,
    /// Largest packet in bytes; `None` leaves the interface's own.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// An address with its prefix length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressConfig {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length in bits, 0 to 32.
    pub prefix: u8,
}

/// A program to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments. Empty means a login shell of the user.
    #[serde(default)]
    pub argv: Vec<String>,
    /// A command line in bytes, for the user's shell to run in place of `argv`. Since generation 3; an older agent takes
    /// no notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<Vec<u8>>,
    /// Variables on top of the user's login environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `None` is the user's home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User by name or number, as in `/etc/passwd`; `None` is root. Since generation 5 also `USER:GROUP`, and numbers that
    /// no file has.
    #[serde(default)]
    pub user: Option<String>,
    /// Gives the program a terminal of this size in place of three pipes.
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
    /// Characters a line.
    pub cols: u16,
}

/// What the host may say while a program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum ExecControl {
    /// The terminal has another size now.
    Resize(TerminalSize),
    /// Send this signal, by its Linux number, to the program's process group.
    Signal {
        /// 1 to 64.
        signal: i32,
    },
    /// A message of a later generation.
    #[serde(other)]
    Unknown,
}

/// How to end the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerOff {
    /// How long the host waits for the guest's end, in milliseconds. Since generation 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// Files to be copied from the guest or into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFiles {
    /// Which way.
    pub direction: CopyDirection,
    /// The path in the guest, in bytes as its file system has it; a relative one is the user's home's.
    pub path: Vec<u8>,
    /// Whether `path`, when it is a symbolic link, stands for what it leads to.
    #[serde(default)]
    pub follow: bool,
    /// Who reads, or becomes the owner, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// Which way files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyDirection {
    /// From the guest, on the exec's stdout.
    Out,
    /// Into the guest, on the exec's stdin.
    In,
}

/// A folder of the guest in which a workspace is or shall be, and what is to be done there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// The absolute path of the folder, in bytes as the guest's file system has it.
    pub path: Vec<u8>,
    /// What to do.
    pub action: WorkspaceAction,
}

/// How an exec of the agent itself fails, by its exit status; they are Linux's error numbers. Any other is a failure of no
/// particular kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OwnFailure {
    /// What it is about is not there.
    NotFound = 2,
    /// Somebody else is at it.
    Busy = 16,
    /// Something is there already.
    Exists = 17,
    /// The disk is full.
    NoSpace = 28,
}

impl OwnFailure {
    /// From an exit status.
    pub fn of(status: u8) -> Option<Self> {
        [Self::NotFound, Self::Busy, Self::Exists, Self::NoSpace]
            .into_iter()
            .find(|kind| *kind as u8 == status)
    }
}

/// What can be done with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceAction {
    /// Places the tree of `banger-files` on stdin where nothing is yet, and says on stdout when it was there (a time of
    /// `banger-files`, 12 bytes): what has not changed since then is as it was sent.
    Place,
    /// So for the changes of `banger-files` on stdin, to a workspace that is there.
    Change,
    /// Sends a listing of `banger-files` to stdout.
    List,
    /// Sends the files and links whose paths come on stdin, each ended by a zero byte, to stdout as a stream of
    /// `banger-files`. What is not there is left out.
    Fetch,
}

/// Whose files SFTP is to be served of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sftp {
    /// Who, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// A socket in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// An address or a name. To listen: `localhost` for loopback, nothing or `*` for everywhere.
        host: String,
        /// The port. To listen: 0 for any that is free.
        port: u16,
    },
    /// A stream socket in the file system.
    Unix {
        /// Its path, in bytes.
        path: Vec<u8>,
    },
}

/// A socket to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Where.
    pub to: Endpoint,
    /// With whose rights, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// A socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where; `None` is a socket that nobody but the user can reach, in a folder of its own.
    #[serde(default)]
    pub at: Option<Endpoint>,
    /// With whose rights, by name or number; `None` is root.
    #[serde(default)]
    pub user: Option<String>,
}

/// A caller to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Its number, from [`Reply::Called`].
    pub caller: u64,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To a ping.
    Pong,
    /// To configure: everything is in force.
    Configured,
    /// To exec: the program runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// During exec: the program has read this much more of its stdin; see [`STDIN_WINDOW`](crate::STDIN_WINDOW).
    Taken {
        /// Bytes.
        bytes: u32,
    },
    /// To exec, last of all: the program ended, and all its output has been sent.
    Exited {
        /// How.
        status: ExitStatus,
    },
    /// To inspect.
    Inspected(Inspection),
    /// To ports.
    Ports {
        /// What listens, by port.
        listeners: Vec<Listener>,
    },
    /// To connect and take: bytes go both ways now.
    Connected,
    /// To connect and take, last of all: both ways have ended, and all that came has been sent.
    Closed,
    /// To listen.
    Listening {
        /// Where, with the port or path that was chosen.
        at: Endpoint,
    },
    /// During listen: somebody waits to be taken.
    Called {
        /// The number to take it by.
        caller: u64,
        /// Where it calls from, if that has an address.
        #[serde(default)]
        from: Option<SocketAddr>,
    },
    /// To power off: file systems are synced, the guest is going down.
    PoweringOff,
    /// In place of any other answer.
    Failed {
        /// For programs.
        kind: FailureKind,
        /// For people: what failed and why.
        message: String,
    },
}

/// How a guest is doing, by its own account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Since when its kernel runs, in milliseconds.
    #[serde(default)]
    pub uptime_ms: u64,
    /// Its clock, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub clock_ns: u64,
    /// Programs that ran or wanted to, on average over the last minute.
    #[serde(default)]
    pub load: f64,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_total: u64,
    /// Memory that programs could still have, in bytes.
    #[serde(default)]
    pub memory_available: u64,
    /// File systems of the VM's disks.
    #[serde(default)]
    pub disks: Vec<DiskUsage>,
    /// Network interfaces, but for loopback.
    #[serde(default)]
    pub interfaces: Vec<InterfaceUsage>,
}

/// A file system in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Where it is mounted: `/`, `/root`.
    pub path: String,
    /// Its size in bytes.
    pub total: u64,
    /// What can still be written, in bytes.
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

/// A socket in the guest that others can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// What it speaks.
    pub protocol: Transport,
    /// Where it listens; unspecified for everywhere.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// A process that has it open.
    #[serde(default)]
    pub pid: Option<u32>,
    /// That process's name.
    #[serde(default)]
    pub process: Option<String>,
    /// Whether it answered when it was spoken to in HTTP.
    #[serde(default)]
    pub http: bool,
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

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this status, 0 to 255.
    Code(u8),
    /// This signal, by its Linux number, killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The status as a shell gives it: 128 + n for signal n.
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
    /// There is no such program, user or folder.
    NotFound,
    /// It is there but may not be used so.
    NotPermitted,
    /// The request makes no sense.
    Invalid,
    /// This agent does not know the request.
    Unsupported,
    /// Anything else; the message says what.
    #[serde(other)]
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_later_generation_is_unknown_not_an_error() {
        let request: Request = serde_json::from_str(r#"{"op":"teleport","where":"mars"}"#).unwrap();
        assert_eq!(request, Request::Unknown);
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let request: Request = serde_json::from_str(r#"{"op":"exec","argv":["true"],"nice":5}"#).unwrap();
        assert_eq!(request, Request::Exec(Exec { argv: vec!["true".into()], ..Exec::default() }));
    }

    #[test]
    fn messages_of_generation_1_stay_as_they_are() {
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
    fn messages_of_generation_2_stay_as_they_are() {
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
    fn messages_of_generation_3_stay_as_they_are() {
        let list = Workspace { path: b"/r".into(), action: WorkspaceAction::List };
        let wire = serde_json::to_string(&Request::Workspace(list)).unwrap();
        assert_eq!(wire, r#"{"op":"workspace","path":[47,114],"action":"list"}"#);
        assert_eq!(OwnFailure::of(28), Some(OwnFailure::NoSpace));
        assert_eq!(OwnFailure::of(1), None);
        let tcp = Endpoint::Tcp { host: "localhost".into(), port: 80 };
        let unix = Endpoint::Unix { path: b"/a".into() };
        let wire = [
            serde_json::to_string(&Request::Sftp(Sftp { user: None })).unwrap(),
            serde_json::to_string(&Request::Connect(Connect { to: tcp, user: Some("dev".into()) })).unwrap(),
            serde_json::to_string(&Request::Listen(Listen { at: Some(unix.clone()), user: None })).unwrap(),
            serde_json::to_string(&Request::Take(Take { caller: 7 })).unwrap(),
            serde_json::to_string(&Exec { command_line: Some(b"a".into()), ..Exec::default() }).unwrap(),
            serde_json::to_string(&Reply::Connected).unwrap(),
            serde_json::to_string(&Reply::Closed).unwrap(),
            serde_json::to_string(&Reply::Listening { at: unix }).unwrap(),
            serde_json::to_string(&Reply::Called { caller: 7, from: "127.0.0.1:9".parse().ok() }).unwrap(),
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
    fn messages_of_generation_4_stay_as_they_are() {
        let configure = Configure {
            authorized_keys: vec!["ssh-ed25519 AAAA".into()],
            locale: Some("de_DE.UTF-8".into()),
            ..Configure::default()
        };
        assert_eq!(
            serde_json::to_string(&Request::Configure(configure)).unwrap(),
            r#"{"op":"configure","hostname":null,"hosts":{},"network":null,"clock_ns":null,"timezone":null,"authorized_keys":["ssh-ed25519 AAAA"],"locale":"de_DE.UTF-8"}"#
        );
        let older: Configure = serde_json::from_str(r#"{"timezone":"UTC"}"#).unwrap();
        assert_eq!(older, Configure { timezone: Some("UTC".into()), ..Configure::default() });
    }

    #[test]
    fn messages_of_generation_5_stay_as_they_are() {
        let off = Request::PowerOff(PowerOff { grace_ms: Some(10_000) });
        assert_eq!(serde_json::to_string(&off).unwrap(), r#"{"op":"power_off","grace_ms":10000}"#);
        let configure = Configure { env: vec!["A=b".into()], ..Configure::default() };
        let wire = serde_json::to_string(&configure).unwrap();
        assert!(wire.ends_with(r#""locale":null,"env":["A=b"]}"#), "{wire}");
    }

    #[test]
    fn a_signal_becomes_128_and_its_number() {
        assert_eq!(ExitStatus::Signal(15).shell_code(), 143);
        assert_eq!(ExitStatus::Code(42).shell_code(), 42);
    }
}
