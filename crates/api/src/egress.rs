//! Egress policies: which destinations a VM's network reaches.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZero,
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of rules in a list.
const MAX_RULES: usize = 256;

/// Maximum length of a domain name in characters, and of each of its labels (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Which destinations a VM's network reaches. No policy reaches the host itself, other VMs, or link-local, metadata and
/// multicast addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Egress {
    /// Everything else.
    #[default]
    Open,
    /// Everything else, as a list would: names resolve through banger alone. So what the VM then asks for is all that a
    /// list needs.
    Learn,
    /// Everything else but private addresses.
    Public,
    /// Nothing.
    None,
    /// Only what a rule allows.
    List(Vec<EgressRule>),
}

/// A rule of a list: destinations that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressRule {
    /// The destination.
    pub to: Destination,
    /// Its port, for TCP and UDP; `None` is every port.
    pub port: Option<u16>,
}

/// A destination of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A domain name.
    Name(DomainName),
    /// All names below a domain, at any depth, without the domain itself: `*.example.com`.
    Below(DomainName),
    /// An address, or a network of them.
    Network(Network),
}

/// A domain name in lower case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

/// An IPv4 or IPv6 network: its first address, and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// The first address.
    pub address: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix: u8,
}

/// Error for a text that is not an egress policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEgress {
    /// A rule is not valid.
    #[error(
        "{rule:?} is not open, learn, public or none, nor a rule such as pypi.org, *.crates.io:443 or 10.0.0.5:5432: {why}"
    )]
    Rule {
        /// The rule, cut to a length that fits into a message.
        rule: String,
        /// The reason.
        why: String,
    },
    /// There are too many rules.
    #[error("a list has at most {MAX_RULES} rules, this one has {0}")]
    TooMany(usize),
    /// A keyword is in a list.
    #[error("{0} cannot be combined with other rules")]
    Combined(&'static str),
}

impl FromStr for Egress {
    type Err = InvalidEgress;

    /// Parses a keyword, or rules separated by commas or spaces.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rules: Vec<EgressRule> = Vec::new();
        let words: Vec<_> = text.split([',', ' ', '\n', '\t']).filter(|word| !word.is_empty()).collect();
        for (keyword, policy) in
            [("open", Self::Open), ("learn", Self::Learn), ("public", Self::Public), ("none", Self::None)]
        {
            if words == [keyword] {
                return Ok(policy);
            }
            if words.contains(&keyword) {
                return Err(InvalidEgress::Combined(keyword));
            }
        }
        if words.len() > MAX_RULES {
            return Err(InvalidEgress::TooMany(words.len()));
        }
        for word in &words {
            let rule = word.parse()?;
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        if rules.is_empty() {
            return Err(InvalidEgress::Rule { rule: String::new(), why: "it is empty".to_owned() });
        }
        Ok(Self::List(rules))
    }
}

impl FromStr for EgressRule {
    type Err = InvalidEgress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why: String| InvalidEgress::Rule { rule: text.chars().take(64).collect(), why };
        if text.contains("://") {
            return Err(invalid("write a host's name, not a URL".to_owned()));
        }
        let (to, port) = split_port(text).map_err(invalid)?;
        let to = match (to.strip_prefix("*."), to) {
            (Some(domain), _) => Destination::Below(DomainName::parse(domain).map_err(invalid)?),
            (None, to) if to.contains(':') || looks_like_ipv4(to) => {
                Destination::Network(to.parse().map_err(invalid)?)
            }
            (None, to) => Destination::Name(DomainName::parse(to).map_err(invalid)?),
        };
        Ok(Self { to, port })
    }
}

/// Splits off a port. An IPv6 address with a port is in brackets.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let port = |digits: &str| {
        let port = digits.parse::<NonZero<u16>>().map(NonZero::get);
        port.map(Some).map_err(|_| format!("{digits:?} is not a port, 1 to 65535"))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("a closing ] is missing")?;
        return match rest.strip_prefix(':') {
            Some(digits) => Ok((address, port(digits)?)),
            None if rest.is_empty() => Ok((address, None)),
            None => Err(format!("{rest:?} after ] is not a port")),
        };
    }
    match text.split_once(':') {
        Some((to, digits)) if !digits.contains(':') => Ok((to, port(digits)?)),
        _ => Ok((text, None)),
    }
}

/// Returns whether a text is meant as an IPv4 address or network: its last label is a number.
fn looks_like_ipv4(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    text.contains('/') || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

impl DomainName {
    /// Parses a domain name; upper case becomes lower case, and one dot at the end is dropped.
    ///
    /// # Errors
    /// Returns the reason why it is not a domain name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err("a name is missing".to_owned());
        }
        if name.len() > MAX_NAME {
            return Err(format!("a name has at most {MAX_NAME} characters"));
        }
        if !name.is_ascii() {
            return Err("write an international name in its ASCII form, xn--…".to_owned());
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return Err(format!("the parts between dots have 1 to {MAX_LABEL} characters"));
            }
            if let Some(wrong) =
                label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
            {
                return Err(format!("{wrong:?} cannot be in a name"));
            }
        }
        Ok(Self(name))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether `name` is below this domain.
    fn has_below(&self, name: &Self) -> bool {
        name.0.strip_suffix(&self.0).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl FromStr for Network {
    type Err = String;

    /// Parses an address, or a network such as `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(text) => text
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits && !text.starts_with('+'))
                .ok_or_else(|| format!("/{text} is not a prefix length, 0 to {bits}"))?,
        };
        Self::new(address, prefix).ok_or_else(|| format!("{text} has bits behind its prefix"))
    }
}

impl Network {
    /// Returns the network, or `None` if the address has bits behind the prefix.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let (bits, length) = bits(address);
        let behind = u128::MAX.checked_shr(128 - u32::from(length - prefix.min(length))).unwrap_or(0);
        (prefix <= length && bits & behind == 0).then_some(Self { address, prefix })
    }

    /// Returns whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((network, length), (address, other)) = (bits(self.address), bits(address));
        let behind = u32::from(length.saturating_sub(self.prefix));
        length == other && (network ^ address).checked_shr(behind).unwrap_or(0) == 0
    }
}

/// Returns an address as a number, and its length in bits.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl Egress {
    /// Returns the rules of a list; none for the other policies.
    pub fn rules(&self) -> &[EgressRule] {
        match self {
            Self::List(rules) => rules,
            Self::Open | Self::Learn | Self::Public | Self::None => &[],
        }
    }

    /// Returns whether this policy allows nothing that `limit` refuses. An address in a list counts as private.
    pub fn is_within(&self, limit: &Self) -> bool {
        let is_name = |rule: &EgressRule| !matches!(rule.to, Destination::Network(_));
        match (self, limit) {
            (Self::None, _) | (_, Self::Open) | (Self::Public, Self::Public) | (Self::Learn, Self::Learn) => {
                true
            }
            // Learning allows every destination.
            (Self::Public | Self::List(_), Self::Learn) => true,
            (Self::List(rules), Self::Public) => rules.iter().all(is_name),
            (Self::List(rules), Self::List(limit)) => rules.iter().all(|rule| limit.contains(rule)),
            (Self::Open | Self::Learn | Self::Public | Self::List(_), _) => false,
        }
    }

    /// Returns whether names resolve: all of them, or those that a rule has.
    pub fn allows_name(&self, name: &DomainName) -> bool {
        match self {
            Self::Open | Self::Learn | Self::Public => true,
            Self::None => false,
            Self::List(rules) => rules.iter().any(|rule| rule.to.has_name(name)),
        }
    }
}

impl Destination {
    /// Returns whether the destination includes `name`.
    pub fn has_name(&self, name: &DomainName) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Below(domain) => domain.has_below(name),
            Self::Network(_) => false,
        }
    }
}

impl TryFrom<String> for Egress {
    type Error = InvalidEgress;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> Self {
        egress.to_string()
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.pad("open"),
            Self::Learn => f.pad("learn"),
            Self::Public => f.pad("public"),
            Self::None => f.pad("none"),
            Self::List(rules) => {
                for (index, rule) in rules.iter().enumerate() {
                    write!(f, "{}{rule}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.to, self.port) {
            (Destination::Network(network), Some(port)) if network.address.is_ipv6() => {
                write!(f, "[{network}]:{port}")
            }
            (to, Some(port)) => write!(f, "{to}:{port}"),
            (to, None) => write!(f, "{to}"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Below(domain) => write!(f, "*.{}", domain.as_str()),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, length) = bits(self.address);
        if self.prefix == length {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Ipv4Addr> for Network {
    fn from(address: Ipv4Addr) -> Self {
        Self { address: address.into(), prefix: 32 }
    }
}

impl From<Ipv6Addr> for Network {
    fn from(address: Ipv6Addr) -> Self {
        Self { address: address.into(), prefix: 128 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_parsed_and_written_the_same() {
        for text in [
            "open",
            "learn",
            "public",
            "none",
            "pypi.org,*.crates.io:443,10.0.0.5:5432",
            "10.0.0.0/8,fd00::/8,[fd00::1]:80,[2001:db8::/32]:443,::1,a_b.example:1",
            "0.0.0.0/0:443",
        ] {
            let egress: Egress = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(egress.to_string(), text);
            let json = serde_json::to_string(&egress).unwrap();
            assert_eq!(serde_json::from_str::<Egress>(&json).unwrap(), egress);
        }
        let same: Egress = " PyPI.org.,\n pypi.org  [10.0.0.1]:22 ".parse().unwrap();
        assert_eq!(same.to_string(), "pypi.org,10.0.0.1:22");
    }

    #[test]
    fn invalid_rules_are_refused_with_the_reason() {
        for (text, why) in [
            ("", "it is empty"),
            ("open,pypi.org", "open cannot be combined"),
            ("pypi.org:0", "not a port"),
            ("pypi.org:", "not a port"),
            ("pypi.org:65536", "not a port"),
            ("*", "'*' cannot be in a name"),
            ("*.", "a name is missing"),
            ("a*.example", "'*' cannot be in a name"),
            ("a..b", "parts between dots"),
            ("https://pypi.org", "not a URL"),
            ("pypi.org/simple", "not an address"),
            ("bücher.example", "xn--"),
            ("10.0.0.1/8", "bits behind its prefix"),
            ("10.0.0.0/33", "not a prefix length"),
            ("10.0.0.0/+8", "not a prefix length"),
            ("10.0.0", "not an address"),
            ("10.0.0.256", "not an address"),
            ("[fd00::1", "closing ]"),
            ("[fd00::1]x", "is not a port"),
            ("fd00::g", "not an address"),
        ] {
            let error = text.parse::<Egress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let many: Vec<_> = (0..=MAX_RULES).map(|number| format!("n{number}.example")).collect();
        assert_eq!(many.join(",").parse::<Egress>(), Err(InvalidEgress::TooMany(257)));
    }

    #[test]
    fn a_policy_is_within_another_if_it_allows_nothing_more() {
        // From narrow to wide; each is within itself and those after it.
        let policies = ["none", "pypi.org", "pypi.org,*.crates.io:443", "public", "learn", "open"];
        let policies = policies.map(|text| text.parse::<Egress>().unwrap());
        for (narrow, policy) in policies.iter().enumerate() {
            for (wide, limit) in policies.iter().enumerate() {
                assert_eq!(policy.is_within(limit), narrow <= wide, "{policy} within {limit}");
            }
        }
        let address: Egress = "10.0.0.5:5432".parse().unwrap();
        assert!(!address.is_within(&Egress::Public) && address.is_within(&Egress::Open));
    }

    #[test]
    fn names_match_exactly_or_below_a_domain() {
        let egress: Egress = "pypi.org,*.crates.io:443,10.0.0.0/8".parse().unwrap();
        let allows = |name: &str| egress.allows_name(&DomainName::parse(name).unwrap());
        assert!(
            allows("pypi.org")
                && allows("PYPI.ORG.")
                && allows("static.crates.io")
                && allows("a.b.crates.io")
        );
        assert!(!allows("crates.io") && !allows("xcrates.io") && !allows("x.pypi.org") && !allows("org"));
        assert!(Egress::Open.allows_name(&DomainName::parse("x").unwrap()));
        assert!(!Egress::None.allows_name(&DomainName::parse("x").unwrap()));
    }

    #[test]
    fn networks_contain_their_addresses() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let contains = |text: &str, address: &str| network(text).contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && contains("fd00::1", "fd00::1") && !contains("fd00::1", "fd00::2"));
        assert!(contains("1.2.3.4", "1.2.3.4") && !contains("1.2.3.4", "1.2.3.5"));
    }
}
