//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): `<length> <key>=<value>\n` records.
//!
//! A record's length delimits its value, because binary values (extended attributes) may contain newlines.

use crate::error::EntryProblem;

/// Extended header records for the next member, or, if global, for all that follow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// GNU tar's sparse records (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Clone, Default)]
pub(crate) struct PaxSparse {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    /// Version 1.0: the map precedes the data.
    pub(crate) in_data: bool,
    /// Versions 0.0 and 0.1: offset and length, alternating.
    pub(crate) map: Option<Vec<u64>>,
}

impl Pax {
    /// Parses the records of one extended header.
    pub(crate) fn read(&mut self, mut bytes: &[u8], max_segments: usize) -> Result<(), EntryProblem> {
        // Some writers pad the last record with NULs.
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or(EntryProblem::Pax)?;
            let length =
                number(&bytes[..space]).and_then(|n| usize::try_from(n).ok()).ok_or(EntryProblem::Pax)?;
            let record = bytes.get(space + 1..length).ok_or(EntryProblem::Pax)?;
            let record = record.strip_suffix(b"\n").ok_or(EntryProblem::Pax)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(EntryProblem::Pax)?;
            self.set(&record[..equals], &record[equals + 1..], max_segments)?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], max_segments: usize) -> Result<(), EntryProblem> {
        let integer = || number(value).ok_or(EntryProblem::Pax);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(integer()?),
            b"uid" => self.uid = Some(integer()?),
            b"gid" => self.gid = Some(integer()?),
            b"mtime" => self.mtime = Some(time(value).ok_or(EntryProblem::Pax)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(integer()?),
            b"GNU.sparse.major" => self.sparse.in_data = integer()? >= 1,
            b"GNU.sparse.map" => {
                let numbers = value.split(|b| *b == b',').map(|n| number(n).ok_or(EntryProblem::Pax));
                self.sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().push(integer()?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        if self.sparse.map.as_ref().is_some_and(|map| map.len() / 2 > max_segments) {
            return Err(EntryProblem::Sparse);
        }
        Ok(())
    }
}

/// Parses a decimal number of ASCII digits.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Parses seconds with an optional sign and fraction; a negative time with a fraction rounds towards the past.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let seconds = i64::try_from(number(&value[..dot])?).ok()?;
    let fraction = value.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |sum, i| sum * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0')));
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        super::super::testing::pax_record(key, value)
    }

    #[test]
    fn values_may_contain_newlines() {
        let mut bytes = record("SCHILY.xattr.security.capability", b"\x01\n\n=\n");
        bytes.extend(record("path", "a/ö".as_bytes()));
        let mut pax = Pax::default();
        pax.read(&bytes, 10).unwrap();
        assert_eq!(pax.xattrs, [(b"security.capability".to_vec(), b"\x01\n\n=\n".to_vec())]);
        assert_eq!(pax.path.as_deref(), Some("a/ö".as_bytes()));
    }

    #[test]
    fn timestamps_with_fractions_are_parsed() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_rejected() {
        for bytes in [
            &b"x"[..],
            b"9 a=b\n",
            b"5 a=b\n",
            b"6 a=bc",
            b"6 abc\n",
            b"0 a=b\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert_eq!(Pax::default().read(bytes, 10), Err(EntryProblem::Pax), "{bytes:?}");
        }
        let mut pax = Pax::default();
        assert_eq!(pax.read(&record("GNU.sparse.map", b"0,1,2,3,4,5"), 2), Err(EntryProblem::Sparse));
    }
}
