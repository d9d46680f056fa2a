//! Published ports: ports of a VM's guest that the daemon serves on the host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of ports that a VM publishes. Each has up to two listeners.
pub const MAX_PUBLISHED: usize = 64;

/// Maximum number of ports that a VM publishes automatically.
pub const MAX_AUTOMATIC: usize = 64;

/// Maximum length of a text that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// Transport protocol of a published port.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP. Empty datagrams do not pass.
    Udp,
}

impl PortProtocol {
    /// Returns its name in JSON and in texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the guest, and the address and port of the host that serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Address on the host; `null` for loopback, both 127.0.0.1 and ::1.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Port on the host.
    #[schemars(range(min = 1))]
    pub host: u16,
    /// Port in the guest.
    #[schemars(range(min = 1))]
    pub guest: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
}

impl Publish {
    /// Returns whether other hosts may reach the port.
    pub fn is_public(&self) -> bool {
        self.address.is_some_and(|address| !address.is_loopback())
    }

    /// Returns the address on the host, for people: that of IPv4 for loopback.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.host)
    }

    /// Returns whether both use the same port of the host, at the same address.
    pub fn has_address_of(&self, other: &Self) -> bool {
        (self.address, self.host, self.protocol) == (other.address, other.host, other.protocol)
    }
}

impl fmt::Display for Publish {
    /// Writes `[ADDR:]HOST:GUEST[/udp]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, self.address)?;
        write!(f, "{}:{}", self.host, self.guest)?;
        write_protocol(f, self.protocol)
    }
}

/// Error for a text that is not a published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// A part is not a port.
    #[error("{part} is not a port: 1 to 65535", part = part_of(port, text))]
    Port {
        /// The part.
        port: String,
        /// The text.
        text: String,
    },
    /// The part before the ports is not an address.
    #[error("{part} is not an IP address; IPv6 needs brackets, as in [::1]:8080:80", part = part_of(address, text))]
    Address {
        /// The part.
        address: String,
        /// The text.
        text: String,
    },
    /// The protocol is not supported.
    #[error("{part} is not a protocol: use tcp or udp", part = part_of(protocol, text))]
    Protocol {
        /// The part.
        protocol: String,
        /// The text.
        text: String,
    },
}

/// Writes a part of a text and where it is; a text that is one part is written once.
fn part_of(part: &str, text: &str) -> String {
    if part == text { format!("{text:?}") } else { format!("{part:?} in {text:?}") }
}

impl FromStr for Publish {
    type Err = InvalidPublish;

    /// Parses `[ADDR:]HOST:GUEST[/PROTOCOL]`, or `GUEST[/PROTOCOL]`, which is the host's port too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = PortSelector::from_str(text)?;
        let PortSelector { address, host, guest, protocol } = parsed;
        Ok(Self { address, host, guest: guest.unwrap_or(host), protocol })
    }
}

/// Selects published ports of a VM by the host's port; other fields may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSelector {
    /// Address on the host; without it, any.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Port on the host.
    #[schemars(range(min = 1))]
    pub host: u16,
    /// Port in the guest; without it, any.
    #[serde(default)]
    pub guest: Option<u16>,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: PortProtocol,
}

impl PortSelector {
    /// Returns whether it selects `port`.
    pub fn selects(&self, port: &Publish) -> bool {
        self.host == port.host
            && self.protocol == port.protocol
            && self.guest.is_none_or(|guest| guest == port.guest)
            && self.address.is_none_or(|address| address == port.endpoint().ip())
    }
}

impl fmt::Display for PortSelector {
    /// Writes `[ADDR:]HOST[:GUEST][/udp]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, self.address)?;
        write!(f, "{}", self.host)?;
        if let Some(guest) = self.guest {
            write!(f, ":{guest}")?;
        }
        write_protocol(f, self.protocol)
    }
}

impl FromStr for PortSelector {
    type Err = InvalidPublish;

    /// Parses `[ADDR:]HOST:GUEST[/PROTOCOL]` or `HOST[/PROTOCOL]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(MAX_SHOWN).collect::<String>();
        let part = |part: &str| part.chars().take(MAX_SHOWN).collect::<String>();
        let port = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let parsed = digits.parse::<NonZero<u16>>().ok().filter(|_| plain);
            parsed.map(NonZero::get).ok_or_else(|| InvalidPublish::Port { port: part(digits), text: shown() })
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, PortProtocol::default()),
            Some((ports, "tcp")) => (ports, PortProtocol::Tcp),
            Some((ports, "udp")) => (ports, PortProtocol::Udp),
            Some((_, other)) => {
                return Err(InvalidPublish::Protocol { protocol: part(other), text: shown() });
            }
        };
        let Some((before, guest)) = ports.rsplit_once(':') else {
            return Ok(Self { address: None, host: port(ports)?, guest: None, protocol });
        };
        let (address, host) = match before.rsplit_once(':') {
            None => (None, before),
            Some((address, host)) => {
                let invalid = || InvalidPublish::Address { address: part(address), text: shown() };
                let v6 = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let address = match v6 {
                    Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| invalid())?,
                    None => address.parse().map(IpAddr::V4).map_err(|_| invalid())?,
                };
                (Some(address), host)
            }
        };
        Ok(Self { address, host: port(host)?, guest: Some(port(guest)?), protocol })
    }
}

fn write_address(f: &mut fmt::Formatter<'_>, address: Option<IpAddr>) -> fmt::Result {
    match address {
        None => Ok(()),
        Some(IpAddr::V4(address)) => write!(f, "{address}:"),
        Some(IpAddr::V6(address)) => write!(f, "[{address}]:"),
    }
}

fn write_protocol(f: &mut fmt::Formatter<'_>, protocol: PortProtocol) -> fmt::Result {
    if protocol == PortProtocol::default() { Ok(()) } else { write!(f, "/{}", protocol.as_str()) }
}

/// A published port of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPort {
    /// Address on the host; `null` for loopback, both 127.0.0.1 and ::1.
    pub address: Option<IpAddr>,
    /// Port on the host.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
    /// Transport protocol.
    pub protocol: PortProtocol,
    /// Whether it is published because something in the guest listens on it (`publish_all`), and only so long.
    #[serde(default)]
    pub automatic: bool,
    /// Whether the daemon listens on the host's port, which it does while the VM runs.
    pub open: bool,
    /// The reason why it does not, while the VM runs.
    #[serde(default)]
    pub error: Option<String>,
}

impl PublishedPort {
    /// Returns what is published.
    pub fn publish(&self) -> Publish {
        let Self { address, host, guest, protocol, .. } = *self;
        Publish { address, host, guest, protocol }
    }
}

/// Request to publish ports of a VM: `POST /v1/vms/REF/publish`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishPorts {
    /// The ports, in addition to those that are published.
    #[serde(default)]
    pub ports: Vec<Publish>,
    /// Also publish each TCP port on which something in the guest listens, as long as it does.
    #[serde(default)]
    pub all: bool,
}

/// Request to stop publishing ports of a VM: `POST /v1/vms/REF/unpublish`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnpublishPorts {
    /// The ports. Each must be published.
    #[serde(default)]
    pub ports: Vec<PortSelector>,
    /// Stop publishing all ports, also those that are published automatically.
    #[serde(default)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Publish, InvalidPublish> {
        text.parse()
    }

    #[test]
    fn a_published_port_is_parsed_and_written() {
        let port = |address: Option<&str>, host, guest| {
            let address = address.map(|address| address.parse().unwrap());
            Publish { address, host, guest, protocol: PortProtocol::Tcp }
        };
        for (text, parsed, written) in [
            ("80", port(None, 80, 80), "80:80"),
            ("8080:80", port(None, 8080, 80), "8080:80"),
            ("8080:80/tcp", port(None, 8080, 80), "8080:80"),
            ("65535", port(None, 65535, 65535), "65535:65535"),
            ("127.0.0.1:8080:80", port(Some("127.0.0.1"), 8080, 80), "127.0.0.1:8080:80"),
            ("0.0.0.0:8080:80", port(Some("0.0.0.0"), 8080, 80), "0.0.0.0:8080:80"),
            ("[::1]:8080:80", port(Some("::1"), 8080, 80), "[::1]:8080:80"),
            ("[::]:1:2", port(Some("::"), 1, 2), "[::]:1:2"),
            ("53/udp", Publish { protocol: PortProtocol::Udp, ..port(None, 53, 53) }, "53:53/udp"),
        ] {
            assert_eq!(parse(text), Ok(parsed), "{text}");
            assert_eq!(parsed.to_string(), written);
            assert_eq!(parse(written), Ok(parsed));
        }
    }

    #[test]
    fn an_error_names_the_invalid_part() {
        for (text, message) in [
            ("", "\"\" is not a port: 1 to 65535"),
            ("0", "\"0\" is not a port"),
            ("65536", "\"65536\" is not a port"),
            ("+80", "\"+80\" is not a port"),
            (" 80", "\" 80\" is not a port"),
            ("0/udp", "\"0\" in \"0/udp\" is not a port"),
            ("80:", "\"\" in \"80:\" is not a port"),
            (":80", "\"\" in \":80\" is not a port"),
            ("8080:0", "\"0\" in"),
            ("8080:80/sctp", "\"sctp\" in \"8080:80/sctp\" is not a protocol"),
            ("1:2:3", "\"1\" in \"1:2:3\" is not an IP address"),
            ("localhost:8080:80", "\"localhost\" in"),
            ("::1:8080:80", "\"::1\" in \"::1:8080:80\" is not an IP address; IPv6 needs brackets"),
            ("[127.0.0.1]:8080:80", "\"[127.0.0.1]\" in"),
            ("127.0.0.1:8080", "\"127.0.0.1\" in \"127.0.0.1:8080\" is not a port"),
            ("-1:80", "\"-1\" in"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        assert!(parse(&"9".repeat(1000)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_selector_may_leave_out_the_address_and_the_guests_port() {
        let loopback = parse("8080:80").unwrap();
        let public = parse("0.0.0.0:8080:80").unwrap();
        for (selector, selected) in [
            ("8080", [true, true]),
            ("8080:80", [true, true]),
            ("8080:81", [false, false]),
            ("8080/udp", [false, false]),
            ("80", [false, false]),
            ("0.0.0.0:8080:80", [false, true]),
            ("127.0.0.1:8080:80", [true, false]),
        ] {
            let parsed: PortSelector = selector.parse().unwrap();
            assert_eq!([parsed.selects(&loopback), parsed.selects(&public)], selected, "{selector}");
            assert_eq!(parsed.to_string(), selector);
        }
    }

    #[test]
    fn only_loopback_addresses_are_private() {
        for (text, public) in [
            ("8080:80", false),
            ("127.0.0.2:8080:80", false),
            ("[::1]:8080:80", false),
            ("0.0.0.0:8080:80", true),
            ("[::]:8080:80", true),
            ("192.0.2.1:8080:80", true),
        ] {
            assert_eq!(parse(text).unwrap().is_public(), public, "{text}");
        }
    }
}
