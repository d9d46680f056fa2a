//! Directory entries in the format of `ls -l`, which clients show unchanged.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    time::{SystemTime, UNIX_EPOCH},
};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY: i64 = 24 * 60 * 60;

/// Age in seconds from which a date shows the year.
const RECENT: i64 = DAY * 365 / 2;

/// Names of the guest's users and groups, by number.
#[derive(Debug, Default)]
pub(super) struct Names(Option<[HashMap<u32, String>; 2]>);

impl Names {
    /// Returns `name` and `meta` as a line of `ls -l`.
    pub(super) fn line(&mut self, name: &[u8], meta: &Metadata) -> Vec<u8> {
        let tables = self.0.get_or_insert_with(|| {
            ["/etc/passwd", "/etc/group"].map(|path| by_number(&fs::read(path).unwrap_or_default()))
        });
        let [user, group] = [(&tables[0], meta.uid()), (&tables[1], meta.gid())]
            .map(|(table, number)| table.get(&number).cloned().unwrap_or_else(|| number.to_string()));
        let mode = permissions(meta.mode());
        let (links, size) = (meta.nlink(), meta.size());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
        let time = time(meta.mtime(), now);
        let mut line = format!("{mode} {links:>3} {user:<8} {group:<8} {size:>8} {time} ").into_bytes();
        line.extend_from_slice(name);
        line
    }
}

/// Parses lines whose first field is a name and whose third is a number.
fn by_number(file: &[u8]) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    String::from_utf8_lossy(file).lines().filter_map(entry).collect()
}

/// Formats a mode, as in `drwxr-xr-x`.
fn permissions(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o060_000 => 'b',
        0o020_000 => 'c',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Formats seconds since 1970 as a date in UTC.
fn time(seconds: i64, now: i64) -> String {
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let month = MONTHS.get(month).copied().unwrap_or_default();
    if (0..RECENT).contains(&now.saturating_sub(seconds)) {
        let minutes = seconds.rem_euclid(DAY) / 60;
        return format!("{month} {day:>2} {:02}:{:02}", minutes / 60, minutes % 60);
    }
    format!("{month} {day:>2}  {year}")
}

/// Converts days since 1970 to year, month from 0, and day in the Gregorian calendar. Years begin in March here, so
/// that a leap day is the last day of a year.
fn date(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    (year, usize::try_from(month).unwrap_or_default(), day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_formatted_as_in_ls() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o106_640, "-rwSr-S---"),
            (0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }

    #[test]
    fn recent_times_show_the_minute_and_others_the_year() {
        let now = 1_764_000_000;
        assert_eq!(time(now - 60, now), "Nov 24 15:59");
        assert_eq!(time(951_782_400, now), "Feb 29  2000");
        assert_eq!(time(0, now), "Jan  1  1970");
        assert_eq!(time(-1, now), "Dec 31  1969");
        assert_eq!(time(now + 60, now), "Nov 24  2025");
    }

    #[test]
    fn consecutive_days_have_consecutive_dates() {
        let mut last = date(-800_000);
        for days in -799_999..800_000 {
            let (year, month, day) = date(days);
            let next = if day == 1 {
                (month == (last.1 + 1) % 12) && year == last.0 + i64::from(month == 0) && last.2 >= 28
            } else {
                (year, month, day - 1) == last
            };
            assert!(next, "{days}: {last:?} then {year} {month} {day}");
            last = (year, month, day);
        }
    }

    #[test]
    fn names_are_found_by_number() {
        let names = by_number(b"root:x:0:0::/root:/bin/sh\nbroken\ndev:x:1000:1000::/:\n");
        assert_eq!((names.len(), names.get(&1000).map(String::as_str)), (2, Some("dev")));
    }
}
