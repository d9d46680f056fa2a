//! Finds `data.tar.*` in the `ar` container of a Debian package (deb(5), "common" ar format), from a stream.

use std::io::{self, Read};

use super::pax::number;
use crate::error::PackageError;

pub(crate) const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;

/// Returns the bytes of the member whose name starts with `prefix`.
pub(crate) fn member<R: Read>(mut input: R, prefix: &str) -> Result<io::Take<R>, PackageError> {
    let mut magic = [0; 8];
    read_exact(&mut input, &mut magic, PackageError::NotDeb)?;
    if &magic != MAGIC {
        return Err(PackageError::NotDeb);
    }
    loop {
        let mut header = [0; HEADER];
        if !fill(&mut input, &mut header)? {
            return Err(PackageError::NoData);
        }
        if header[58..] != *b"`\n" {
            return Err(PackageError::NotDeb);
        }
        let size = number(header[48..58].trim_ascii_end()).ok_or(PackageError::NotDeb)?;
        if header[..16].starts_with(prefix.as_bytes()) {
            return Ok(input.take(size));
        }
        // Members start at even offsets.
        let padded = size + size % 2;
        let skipped =
            io::copy(&mut input.by_ref().take(padded), &mut io::sink()).map_err(PackageError::Read)?;
        if skipped < size {
            return Err(PackageError::Truncated);
        }
    }
}

/// Fills `buffer`; returns false if the input had already ended.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<bool, PackageError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(PackageError::Truncated),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PackageError::Read(error)),
        }
    }
    Ok(true)
}

fn read_exact(input: &mut impl Read, buffer: &mut [u8], short: PackageError) -> Result<(), PackageError> {
    match fill(input, buffer) {
        Ok(true) => Ok(()),
        Ok(false) | Err(PackageError::Truncated) => Err(short),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::ar;

    #[test]
    fn members_are_found_after_odd_sizes() {
        let bytes = ar(&[("debian-binary", b"2.0"), ("control.tar", b"12345"), ("data.tar.xz", b"abc")]);
        let mut data = Vec::new();
        member(&bytes[..], "data.tar").unwrap().read_to_end(&mut data).unwrap();
        assert_eq!(data, b"abc");
        assert!(matches!(member(&bytes[..], "other"), Err(PackageError::NoData)));
        for length in 0..bytes.len() - 4 {
            let cut = member(&bytes[..length], "data.tar");
            assert!(cut.is_err() || length >= bytes.len() - 10, "{length}");
        }
        assert!(matches!(member(&b"hello"[..], "data.tar"), Err(PackageError::NotDeb)));
        let mut wrong = bytes.clone();
        wrong[8 + 48..8 + 58].copy_from_slice(b"-1        ");
        assert!(matches!(member(&wrong[..], "data.tar"), Err(PackageError::NotDeb)));
    }
}
