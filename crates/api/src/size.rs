//! Sizes of memory and disks.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes. Written `512M`, `8G`, `1.5GiB`; a bare number is MiB. All units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Size(u64);

/// Error for a text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a size: write a number with K, M, G or T, such as 512M or 8G (a bare number is MiB)"
)]
pub struct InvalidSize {
    text: String,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

impl Size {
    /// Creates a size from a number of bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }
    /// Creates a size from a number of MiB.
    pub const fn mib(mib: u64) -> Self {
        Self(mib * MIB)
    }
    /// Creates a size from a number of GiB.
    pub const fn gib(gib: u64) -> Self {
        Self(gib * GIB)
    }
    /// Returns the size in bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
    /// Rounds down to a multiple of `unit` bytes.
    #[must_use]
    pub const fn down_to(self, unit: u64) -> Self {
        Self(self.0 - self.0 % unit)
    }
    /// Returns the size in whole MiB, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 / MIB
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSize { text: text.to_owned() };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.to_ascii_uppercase().as_str() {
            "" | "M" | "MB" | "MIB" => MIB,
            "K" | "KB" | "KIB" => KIB,
            "G" | "GB" | "GIB" => GIB,
            "T" | "TB" | "TIB" => TIB,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 3 {
            return Err(invalid());
        }
        let whole: u64 = whole.parse().map_err(|_| invalid())?;
        let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| invalid())?;
        let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(unit * thousandths / 1000));
        bytes.filter(|bytes| *bytes <= 1 << 60).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for Size {
    /// Writes the size in the largest unit of at least 1, with one decimal if needed: `8G`, `1.5G`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, letter) = match self.0 {
            TIB.. => (TIB, "T"),
            GIB.. => (GIB, "G"),
            MIB.. => (MIB, "M"),
            KIB.. => (KIB, "K"),
            _ => return f.pad(&format!("{}B", self.0)),
        };
        let tenths = (u128::from(self.0) * 10 + u128::from(unit / 2)) / u128::from(unit);
        if tenths % 10 == 0 {
            f.pad(&format!("{}{letter}", tenths / 10))
        } else {
            f.pad(&format!("{}.{}{letter}", tenths / 10, tenths % 10))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_with_units_are_parsed() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("512M", 512 * MIB),
            ("8G", 8 * GIB),
            ("8gib", 8 * GIB),
            ("1.5G", 3 * GIB / 2),
            ("64K", 64 * KIB),
            ("2T", 2 * TIB),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().as_bytes(), bytes, "{text}");
        }
        for text in ["", "G", "-1", "1X", "1.G", ".5G", "1 G", "99999999999T", "1.2345G", "8GiBB", "٣G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_formatted_in_the_largest_unit() {
        for (size, text) in [
            (Size::gib(8), "8G"),
            (Size::mib(1536), "1.5G"),
            (Size::mib(2048), "2G"),
            (Size::bytes(0), "0B"),
            (Size::bytes(1023), "1023B"),
            (Size::bytes(1_288_490_189), "1.2G"),
        ] {
            assert_eq!(size.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<Size>();
        }

        #[test]
        fn a_formatted_size_in_whole_units_parses_to_the_same_size(n in 1u64..1000) {
            for size in [Size::mib(n), Size::gib(n)] {
                prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
            }
        }
    }
}
