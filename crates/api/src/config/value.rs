//! What values can be, and how they are read.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use crate::{ImageName, InvalidPeriod, Name, Period, Size, Vmm};

/// A value as a source has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) shape: Shape,
    pub(super) text: &'a str,
}

/// What a source says that a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The environment, which knows nothing but words.
    Word,
    /// A TOML string.
    Text,
    /// A TOML integer.
    Number,
    /// A TOML boolean.
    Truth,
    /// Anything else of TOML's; the text names it.
    Other,
}

/// A type that a key can be of.
pub(super) trait Value: Sized {
    /// What it may be in a file.
    const SHAPES: &'static [Shape];
    /// How it is written, in words with an example.
    const WRITTEN: &'static str;

    /// Reads `text`, whatever its shape.
    fn of(text: &str) -> Result<Self, String>;

    /// The value of `raw`, or why it is none.
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        if raw.shape == Shape::Word || Self::SHAPES.contains(&raw.shape) {
            return Self::of(raw.text);
        }
        Err(match raw.shape {
            Shape::Other => format!("{} cannot be a value here: write {}", raw.text, Self::WRITTEN),
            Shape::Text => format!("the text {:?} cannot be a value here: write {}", raw.text, Self::WRITTEN),
            _ => format!("{} cannot be a value here: write {}", raw.text, Self::WRITTEN),
        })
    }
}

macro_rules! values {
    ($($type:ident: $($shape:ident)|+, $written:literal;)*) => { $(
        impl Value for $type {
            const SHAPES: &'static [Shape] = &[$(Shape::$shape),+];
            const WRITTEN: &'static str = $written;
            fn of(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: <$type as FromStr>::Err| error.to_string())
            }
        }
    )* };
}

values! {
    ImageName: Text, "an image's name in quotes, as \"debian-bookworm\" or \"alpine:3.20\"";
    Name: Text, "a name in quotes, as \"debian-bookworm\"";
    Vmm: Text, "\"firecracker\" or \"qemu\"";
    Size: Text | Number, "a size, as \"4G\", or a number of MiB";
    Period: Text | Number, "a length of time, as \"90s\", or a number of seconds";
    ProjectFiles: Text, "\"ask\", \"always\" or \"never\"";
    AutoStop: Text | Number, "a length of time, as \"2h\", or \"off\"";
}

impl Value for u32 {
    const SHAPES: &'static [Shape] = &[Shape::Number];
    const WRITTEN: &'static str = "a number";
    fn of(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is not a number that fits here"))
    }
}

impl Value for bool {
    const SHAPES: &'static [Shape] = &[Shape::Truth];
    const WRITTEN: &'static str = "true or false";
    fn of(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }
}

/// Refuses what is out of bounds.
pub(super) fn within<T: PartialOrd + fmt::Display>(
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    Err(format!("{value} cannot be had: from {} to {}", range.start(), range.end()))
}

/// When a VM that nobody uses is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AutoStop {
    /// Never.
    #[default]
    Off,
    /// After so long.
    After(Period),
}

impl FromStr for AutoStop {
    type Err = InvalidPeriod;

    /// `off`, or a length of time; none at all is off too.
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

/// Whether files of the user's go into a VM because a project asks for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProjectFiles {
    /// If the user says so when asked.
    #[default]
    Ask,
    /// They do.
    Always,
    /// They do not.
    Never,
}

/// A word that is no [`ProjectFiles`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of ask, always and never")]
pub struct InvalidProjectFiles(String);

impl FromStr for ProjectFiles {
    type Err = InvalidProjectFiles;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ask" => Ok(Self::Ask),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(InvalidProjectFiles(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for ProjectFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ask => "ask",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}
