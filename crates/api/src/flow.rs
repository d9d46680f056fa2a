//! What a VM's network was asked for.

use std::net::IpAddr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Connections of a VM to one destination: a line of `GET /v1/vms/VM/network`. Names, addresses and ports are what the
/// guest has asked for; the running guest itself reports its processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// What became of them.
    pub verdict: FlowVerdict,
    /// Their protocol.
    pub protocol: FlowProtocol,
    /// The name whose answer had the address last, or that did not resolve; `None` if the guest did not ask for one.
    #[serde(default)]
    pub name: Option<String>,
    /// The destination; `None` if a name did not resolve.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Its port; `None` if the protocol has none.
    #[serde(default)]
    pub port: Option<u16>,
    /// Name of the thread in the guest that used the destination last; `None` if it is unknown.
    #[serde(default)]
    pub process: Option<String>,
    /// That process's id.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Number of connections. At most some hundreds a second are counted.
    pub count: u64,
    /// Time of the first one.
    pub first_at: Timestamp,
    /// Time of the last one.
    pub last_at: Timestamp,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    /// It was allowed; the destination may still not have answered.
    Allowed,
    /// The policy refused it.
    Refused,
    /// The host has no route to the destination.
    Unreachable,
}

/// Protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// A question for a name, which did not resolve.
    Dns,
    /// Any other.
    Other,
}

/// Which flows to read: the query of `GET /v1/vms/VM/network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadFlows {
    /// Whether to go on with each flow that changes, until the VM is down.
    #[serde(default)]
    pub follow: bool,
}

impl FlowVerdict {
    /// Returns the text of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

impl FlowProtocol {
    /// Returns the text of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Dns => "dns",
            Self::Other => "other",
        }
    }
}
