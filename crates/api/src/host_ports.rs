//! Services of the host that a VM reaches.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The port of DNS.
const DNS: u16 = 53;

/// TCP ports of the host's loopback that a VM reaches as `host.banger.internal:PORT`, under every egress policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<u16>", into = "Vec<u16>")]
#[schemars(with = "Vec<u16>")]
pub struct HostPorts(Vec<u16>);

/// Error for ports that cannot be [`HostPorts`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHostPorts {
    /// A text is not a port.
    #[error("{0:?} is not a port of the host, 1 to 65535, nor none")]
    Port(String),
    /// The port of DNS.
    #[error("port {DNS} cannot be allowed: in a VM, it is the resolver's")]
    Dns,
    /// There are too many ports.
    #[error("at most {} ports of the host can be allowed, not {}", HostPorts::MAX, .0)]
    TooMany(usize),
}

impl HostPorts {
    /// Maximum number of ports: the VM's network listens on each.
    pub const MAX: usize = 64;

    /// Name of the host in a VM that reaches some.
    pub const NAME: &str = "host.banger.internal";

    /// Sorts ports; duplicates are dropped.
    ///
    /// # Errors
    /// Returns an error if there are more than [`MAX`](Self::MAX), or the VM's network uses one itself.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Result<Self, InvalidHostPorts> {
        let mut ports: Vec<u16> = ports.into_iter().collect();
        ports.sort_unstable();
        ports.dedup();
        match (ports.first(), ports.len()) {
            (Some(0), _) => Err(InvalidHostPorts::Port("0".to_owned())),
            _ if ports.contains(&DNS) => Err(InvalidHostPorts::Dns),
            (_, count) if count > Self::MAX => Err(InvalidHostPorts::TooMany(count)),
            _ => Ok(Self(ports)),
        }
    }

    /// Returns the ports, in order.
    pub fn ports(&self) -> &[u16] {
        &self.0
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `limit` has each of these ports.
    pub(crate) fn is_within(&self, limit: &Self) -> bool {
        self.0.iter().all(|port| limit.0.contains(port))
    }
}

impl TryFrom<Vec<u16>> for HostPorts {
    type Error = InvalidHostPorts;

    fn try_from(ports: Vec<u16>) -> Result<Self, Self::Error> {
        Self::new(ports)
    }
}

impl From<HostPorts> for Vec<u16> {
    fn from(ports: HostPorts) -> Self {
        ports.0
    }
}

impl FromStr for HostPorts {
    type Err = InvalidHostPorts;

    /// Parses ports with commas between, or `none`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::default());
        }
        let port = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let port = digits.then(|| word.parse().ok()).flatten();
            port.ok_or_else(|| InvalidHostPorts::Port(word.chars().take(64).collect()))
        };
        Self::new(text.split(',').map(|word| port(word.trim())).collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.pad("none");
        }
        f.pad(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_sorted_and_their_text_is_parsed_again() {
        for (text, canonical) in [("none", "none"), ("8080", "8080"), ("8080, 22,8080", "22,8080")] {
            let ports: HostPorts = text.parse().unwrap();
            assert_eq!(ports.to_string(), canonical);
            assert_eq!(canonical.parse::<HostPorts>().unwrap(), ports);
            let json = serde_json::to_string(&ports).unwrap();
            assert_eq!(serde_json::from_str::<HostPorts>(&json).unwrap(), ports);
        }
    }

    #[test]
    fn what_is_no_port_is_rejected() {
        for bad in ["", "0", "65536", "+1", "-1", "1,", "none,1", "http", "1 2"] {
            assert!(matches!(bad.parse::<HostPorts>(), Err(InvalidHostPorts::Port(_))), "{bad}");
        }
        assert_eq!("22,53".parse::<HostPorts>(), Err(InvalidHostPorts::Dns));
        assert_eq!(HostPorts::new(1000..1064).map(|ports| ports.ports().len()), Ok(64));
        assert_eq!(HostPorts::new(1000..1065), Err(InvalidHostPorts::TooMany(65)));
        for bad in ["[0]", "[53]", "[65536]", "[\"22\"]"] {
            assert!(serde_json::from_str::<HostPorts>(bad).is_err(), "{bad}");
        }
    }
}
