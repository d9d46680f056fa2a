//! Requests to the namespace process, and its replies: a JSON message each, with descriptors beside it.

use std::{net::IpAddr, os::fd::OwnedFd};

use banger_api::HostPorts;
use banger_sys::confine::Namespaces;
use serde::{Deserialize, Serialize};

use crate::rules::Pin;

/// A request of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Create the tap, the addresses and the routes, and apply the rules. Answered with [`Reply::Started`].
    Start {
        /// Text of the rules.
        rules: String,
        /// Maximum size of a packet, in bytes.
        mtu: u32,
        /// Ports of the host that the guest reaches, on which to listen.
        host_ports: HostPorts,
    },
    /// Replace the rules.
    Apply {
        /// Text of the rules.
        rules: String,
    },
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The network exists. Descriptors: as in [`Started`].
    Started {
        /// Whether there is IPv6.
        ipv6: bool,
    },
    /// The rules are applied.
    Applied,
    /// The request failed.
    Failed {
        /// What failed, and why.
        message: String,
    },
}

/// A request of the gateway. It has no reply but a byte, when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayRequest {
    /// The host's addresses, which no guest reaches, and its routes.
    Host {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Destinations of the routes, with the lengths of their prefixes.
        routes: Vec<(IpAddr, u8)>,
    },
    /// Addresses of names that the policy allows.
    Pin(Vec<Pin>),
}

/// A network that was created.
#[derive(Debug)]
pub struct Started {
    /// The namespaces, for the VMM.
    pub namespaces: Namespaces,
    /// For the VMM alone to inherit: the network ends when it is closed.
    pub lifeline: OwnedFd,
    /// Sockets for the gateway.
    pub gateway: GatewaySockets,
    /// Whether there is IPv6.
    pub ipv6: bool,
}

/// Sockets for the gateway, in the namespace.
#[derive(Debug)]
pub struct GatewaySockets {
    /// For [`GatewayRequest`]s.
    pub requests: OwnedFd,
    /// The packets that the rules log.
    pub log: OwnedFd,
    /// DNS over UDP, at the guest's resolver's addresses.
    pub udp: Vec<OwnedFd>,
    /// DNS over TCP, listening there.
    pub tcp: Vec<OwnedFd>,
    /// For the host's services, listening there on their ports.
    pub services: Vec<OwnedFd>,
}
