//! The parser of time arguments.

use banger_api::Period;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Parses a duration before now, or a time; a time without an offset is in the local time zone.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    let invalid = || {
        format!(
            "{text:?} is not a time: use a duration before now, such as 90s or 2h, or a time such as 2026-11-25T10:00"
        )
    };
    if let Ok(ago) = text.parse::<Period>() {
        return Timestamp::now().checked_sub(ago.as_duration()).map_err(|_| invalid());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local = text.parse::<DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::system()).ok());
    local.map(|time| time.timestamp()).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_accepts_durations_and_times_and_rejects_other_text() {
        let ago = Timestamp::now().duration_since(since("10m").unwrap());
        assert!((599..660).contains(&ago.as_secs()), "{ago}");
        assert_eq!(since("2026-11-25T10:00:00Z").unwrap().to_string(), "2026-11-25T10:00:00Z");
        assert_eq!(since("2026-11-25T10:00:00+02:00").unwrap().to_string(), "2026-11-25T08:00:00Z");
        assert!(since("2026-11-25T10:00").is_ok());
        assert!(since("2026-11-25 10:00:05").is_ok());
        for text in ["", "soon", "10x", "2026-13-01T00:00"] {
            assert!(since(text).unwrap_err().contains("not a time"), "{text}");
        }
    }
}
