//! Durations, as people write them.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A duration in whole seconds. Written `90s`, `5m`, `2h` or `1h30m`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Period(u64);

/// Error for a text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write a number with s, m or h, such as 90s, 5m or 1h30m")]
pub struct InvalidPeriod {
    text: String,
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Maximum duration in seconds: ten years, so that adding it to a time cannot overflow.
const MAX_SECONDS: u64 = 10 * 365 * 24 * HOUR;

impl Period {
    /// Creates a duration from a number of seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }
    /// Creates a duration from a number of minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self(minutes * MINUTE)
    }
    /// Creates a duration from a number of hours.
    pub const fn hours(hours: u64) -> Self {
        Self(hours * HOUR)
    }
    /// Returns the duration in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }
    /// Returns the duration as the standard library's type.
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = InvalidPeriod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPeriod { text: text.to_owned() };
        if let Ok(seconds) = number(text) {
            return Some(Self(seconds)).filter(|period| period.0 <= MAX_SECONDS).ok_or_else(invalid);
        }
        let (mut rest, mut total, mut last) = (text, 0_u64, u64::MAX);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let (count, unit) = rest.split_at(end);
            let unit = match unit.chars().next() {
                Some('h') => HOUR,
                Some('m') => MINUTE,
                Some('s') => 1,
                _ => return Err(invalid()),
            };
            // Each unit at most once, the largest first.
            if unit >= last {
                return Err(invalid());
            }
            let seconds = number(count).map_err(|()| invalid())?.checked_mul(unit).ok_or_else(invalid)?;
            total = total.checked_add(seconds).ok_or_else(invalid)?;
            (rest, last) = (rest.get(end + 1..).unwrap_or_default(), unit);
        }
        if text.is_empty() || total > MAX_SECONDS {
            return Err(invalid());
        }
        Ok(Self(total))
    }
}

/// Parses digits only; the standard parser also accepts a `+`.
fn number(text: &str) -> Result<u64, ()> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(drop) } else { Err(()) }
}

impl fmt::Display for Period {
    /// Writes the shortest form: `90s` is `1m30s`, `3600s` is `1h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.0 / HOUR, "h"), (self.0 % HOUR / MINUTE, "m"), (self.0 % MINUTE, "s")];
        let text: String =
            parts.iter().filter(|part| part.0 > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
        f.pad(if text.is_empty() { "0s" } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_with_several_units_are_added_up() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1m30s", 90), ("0", 0)]
        {
            assert_eq!(text.parse::<Period>().unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "s", "-1", "+1", "1d", "1.5h", "5m ", "1s1h", "1m1m", "1h30", "99999999999h", "٣s"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_formatted_in_the_shortest_form() {
        for (seconds, text) in [(0, "0s"), (10, "10s"), (90, "1m30s"), (3600, "1h"), (3661, "1h1m1s")] {
            assert_eq!(Period::seconds(seconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<Period>();
        }

        #[test]
        fn a_formatted_duration_parses_to_the_same_duration(seconds in 0..MAX_SECONDS) {
            let period = Period::seconds(seconds);
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
    }
}
