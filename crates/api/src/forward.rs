//! Port forwards from the host to a guest.

use std::{fmt, num::NonZero, str::FromStr};

/// A port of a guest, and the host port that forwards to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Port on the host's loopback interface.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
}

/// Error for a text that is not a port forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a port, 1 to 65535, or two of them as HOST:GUEST")]
pub struct InvalidForward(String);

impl FromStr for Forward {
    type Err = InvalidForward;

    /// Parses `GUEST`, which is the host's port too, or `HOST:GUEST`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |digits: &str| digits.parse::<NonZero<u16>>().map(NonZero::get);
        let (host, guest) = text.split_once(':').unwrap_or((text, text));
        match (port(host), port(guest)) {
            (Ok(host), Ok(guest)) => Ok(Self { host, guest }),
            _ => Err(InvalidForward(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Forward {
    /// Writes `HOST:GUEST`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_parsed_from_one_port_or_two() {
        let forward = |host, guest| Ok(Forward { host, guest });
        for (text, parsed) in
            [("80", forward(80, 80)), ("8080:80", forward(8080, 80)), ("65535", forward(65535, 65535))]
        {
            assert_eq!(text.parse::<Forward>(), parsed);
        }
        for text in ["", "0", "65536", ":80", "80:", "1:2:3", "a", "-1", "80:0", " 80"] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
