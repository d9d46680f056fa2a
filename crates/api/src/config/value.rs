//! Types of configuration values, and their parsing.

use std::{
    borrow::Cow,
    fmt,
    num::NonZero,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    Egress, HostPorts, HttpProxy, ImageName, InvalidHostPorts, InvalidPeriod, Name, NetworkKind, Period,
    Size, Vmm,
};

/// A value, with its type in the source.
#[derive(Debug, Clone)]
pub(super) struct RawValue<'a> {
    pub(super) shape: Shape,
    pub(super) text: Cow<'a, str>,
}

/// Type of a value in its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The value of an environment variable, which has no type.
    Untyped,
    /// A TOML string.
    String,
    /// A TOML integer.
    Integer,
    /// A TOML boolean.
    Boolean,
    /// A TOML array of strings; the text has them with commas between.
    Strings,
    /// A TOML array of integers; the text has them with commas between.
    Integers,
    /// Any other TOML type; the text names it.
    Other,
}

/// A type that a key can have.
pub(super) trait Value: Sized {
    /// Shapes that a file may use for it.
    const SHAPES: &'static [Shape];
    /// Expected syntax with an example, for error messages.
    const EXPECTED: &'static str;

    /// Parses `text`, whatever its shape.
    fn parse(text: &str) -> Result<Self, String>;

    /// Parses `raw`, or returns the reason why it is invalid.
    fn from_raw(raw: &RawValue<'_>) -> Result<Self, String> {
        if raw.shape == Shape::Untyped || Self::SHAPES.contains(&raw.shape) {
            return Self::parse(&raw.text);
        }
        Err(match raw.shape {
            Shape::Strings | Shape::Integers => {
                format!("a list is not valid here: expected {}", Self::EXPECTED)
            }
            Shape::Other => format!("{} is not valid here: expected {}", raw.text, Self::EXPECTED),
            Shape::String => {
                format!("the string {:?} is not valid here: expected {}", raw.text, Self::EXPECTED)
            }
            _ => format!("{} is not valid here: expected {}", raw.text, Self::EXPECTED),
        })
    }
}

macro_rules! values {
    ($($type:ident: $($shape:ident)|+, $written:literal;)*) => { $(
        impl Value for $type {
            const SHAPES: &'static [Shape] = &[$(Shape::$shape),+];
            const EXPECTED: &'static str = $written;
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: <$type as FromStr>::Err| error.to_string())
            }
        }
    )* };
}

values! {
    ImageName: String, "an image name in quotes, such as \"debian-bookworm\" or \"alpine:3.20\"";
    Name: String, "a name in quotes, such as \"debian-bookworm\"";
    Vmm: String, "\"firecracker\" or \"qemu\"";
    Size: String | Integer, "a size such as \"4G\", or a number of MiB";
    Period: String | Integer, "a duration such as \"90s\", or a number of seconds";
    ProjectPolicy: String, "\"ask\", \"always\" or \"never\"";
    Egress: String | Strings, "\"open\", \"public\", \"none\", or a list of destinations such as [\"pypi.org\", \"10.0.0.5:5432\"]";
    HttpProxy: String, "\"host\", \"none\", or a URL such as \"http://proxy.example:3128\"";
    NetworkKind: String, "\"user\" or \"none\"";
    AutoStop: String | Integer, "a duration such as \"2h\", or \"off\"";
    ProxyPort: String | Integer, "a port such as 7788, or \"off\"";
}

impl Value for u32 {
    const SHAPES: &'static [Shape] = &[Shape::Integer];
    const EXPECTED: &'static str = "a number";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is not a valid number"))
    }
}

impl Value for HostPorts {
    // An empty array has no type of values.
    const SHAPES: &'static [Shape] = &[Shape::Integers, Shape::Strings, Shape::String, Shape::Integer];
    const EXPECTED: &'static str = "a list of ports such as [5432, 8080]";
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        text.parse().map_err(|error: InvalidHostPorts| error.to_string())
    }
}

impl Value for CaFiles {
    const SHAPES: &'static [Shape] = &[Shape::Strings];
    const EXPECTED: &'static str = "a list of absolute paths such as [\"/etc/ssl/company.pem\"]";
    fn parse(text: &str) -> Result<Self, String> {
        let paths: Vec<_> = text.split(',').filter(|path| !path.is_empty()).collect();
        if let Some(path) = paths.iter().find(|path| !Path::new(path).is_absolute()) {
            return Err(format!("{path:?} is not an absolute path"));
        }
        if paths.len() > Self::MAX {
            return Err(format!("at most {} files are possible, not {}", Self::MAX, paths.len()));
        }
        Ok(Self(paths.into_iter().map(PathBuf::from).collect()))
    }
}

impl Value for bool {
    const SHAPES: &'static [Shape] = &[Shape::Boolean];
    const EXPECTED: &'static str = "true or false";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }
}

/// Returns an error if `value` is outside `range`.
pub(super) fn within<T: PartialOrd + fmt::Display>(
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    Err(format!("{value} is out of range: from {} to {}", range.start(), range.end()))
}

/// Idle time after which a VM is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AutoStop {
    /// Never.
    #[default]
    Off,
    /// After this idle time.
    After(Period),
}

impl FromStr for AutoStop {
    type Err = InvalidPeriod;

    /// Parses `off` or a duration; a duration of zero is `off` too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let period: Period = text.parse()?;
        Ok(if period == Period::seconds(0) { Self::Off } else { Self::After(period) })
    }
}

impl fmt::Display for AutoStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::After(period) => period.fmt(f),
        }
    }
}

/// Files with certificates of authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaFiles(Vec<PathBuf>);

impl CaFiles {
    /// Maximum number of files.
    const MAX: usize = 32;

    /// Returns the absolute paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl fmt::Display for CaFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("none");
        }
        f.pad(&self.0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(","))
    }
}

/// Port of the reverse proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyPort {
    /// There is no proxy.
    Off,
    /// This port of loopback.
    Port(NonZero<u16>),
}

/// Error for a text that is not a [`ProxyPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a port, 1 to 65535, nor off")]
pub struct InvalidProxyPort(String);

impl ProxyPort {
    /// Returns the port; 0 is `off`.
    pub(crate) fn new(port: u16) -> Self {
        NonZero::new(port).map_or(Self::Off, Self::Port)
    }

    /// Returns the port, unless the proxy is off.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Off => None,
            Self::Port(port) => Some(port.get()),
        }
    }
}

impl FromStr for ProxyPort {
    type Err = InvalidProxyPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::Port).map_err(|_| InvalidProxyPort(text.chars().take(64).collect()))
    }
}

impl fmt::Display for ProxyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// Policy for what a project requests of the host: the user's files, or ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProjectPolicy {
    /// banger asks the user.
    #[default]
    Ask,
    /// It is permitted.
    Always,
    /// It is refused.
    Never,
}

/// Error for a text that is not a [`ProjectPolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of ask, always and never")]
pub struct InvalidProjectPolicy(String);

impl FromStr for ProjectPolicy {
    type Err = InvalidProjectPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ask" => Ok(Self::Ask),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(InvalidProjectPolicy(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for ProjectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ask => "ask",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}
