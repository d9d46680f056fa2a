//! Reads the cpio archive of an RPM's payload.
//!
//! Entries are "newc" (cpio(5), "New ASCII Format"), or rpm's own kind, which leaves a file's metadata to the
//! package's header (rpm's lib/cpio.c, "stripped").

use std::io::{self, Read};

use super::PATH_MAX;
use super::reader::{CountingReader, entry, text};
use super::rpm::Files;
use crate::error::{ArchiveError, EntryProblem};

/// Maximum number of entries; a distribution's full kernel has 6 000.
const MAX_ENTRIES: u64 = 200_000;

/// Number of fields in a newc header after its magic, 8 hexadecimal digits each, and the indexes of those used here.
const FIELDS: usize = 13;
const MODE: usize = 1;
const LINKS: usize = 4;
const SIZE: usize = 6;
const NAME_SIZE: usize = 11;

/// Type bits of a mode, and those of a regular file.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// An entry of a cpio archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpioEntry {
    pub(crate) path: String,
    /// Size of a regular file in bytes; `None` for other types, and for a hard link whose content follows later.
    pub(crate) size: Option<u64>,
}

/// Reads the entries of a cpio archive.
pub(crate) struct CpioReader<'a, R> {
    input: R,
    files: &'a Files,
    position: u64,
    /// End of the current entry's data.
    data_end: u64,
    entries: u64,
    last: String,
}

impl<'a, R: Read> CpioReader<'a, R> {
    /// Creates a reader of a payload; `files` comes from the package's header.
    pub(crate) fn new(input: R, files: &'a Files) -> Self {
        Self { input, files, position: 0, data_end: 0, entries: 0, last: "the start".to_owned() }
    }

    /// Returns the next entry, or `None` at the end marker.
    pub(crate) fn next(&mut self) -> Result<Option<CpioEntry>, ArchiveError> {
        let distance = self.data_end - self.position;
        self.skip(distance)?;
        self.pad()?;
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ArchiveError::TooMuch { what: "entries", limit: MAX_ENTRIES });
        }
        let mut magic = [0; 6];
        self.fill(&mut magic)?;
        let (path, mode, size, stored_elsewhere) = match &magic {
            b"070701" | b"070702" => match self.newc()? {
                (path, _) if path == "TRAILER!!!" => return Ok(None),
                (path, fields) => {
                    // Of several hard links to a file, the last has the content.
                    let stored_elsewhere = fields[LINKS] > 1 && fields[SIZE] == 0;
                    (path, fields[MODE], u64::from(fields[SIZE]), stored_elsewhere)
                }
            },
            b"07070X" => {
                let [index] = self.numbers()?;
                self.pad()?;
                let file = usize::try_from(index).ok().and_then(|index| self.files.get(index));
                let file = file.ok_or_else(|| self.damaged("file number"))?;
                let stored = file.has_content && matches!(file.mode & TYPE, REGULAR | 0o120_000);
                (file.path, file.mode, if stored { file.size } else { 0 }, !file.has_content)
            }
            _ => return Err(self.damaged("magic")),
        };
        self.data_end = self.position.checked_add(size).ok_or_else(|| self.damaged("size"))?;
        self.last = format!("{path:?}");
        let size = (mode & TYPE == REGULAR && !stored_elsewhere).then_some(size);
        Ok(Some(CpioEntry { path, size }))
    }

    /// Returns a reader of the rest of the current entry's data.
    pub(crate) fn data(&mut self) -> impl Read + '_ {
        let remaining = self.data_end - self.position;
        CountingReader { position: &mut self.position, input: self.input.by_ref().take(remaining) }
    }

    /// Reads a newc header after its magic, and the name that follows.
    fn newc(&mut self) -> Result<(String, [u32; FIELDS]), ArchiveError> {
        let fields = self.numbers::<FIELDS>()?;
        let length = usize::try_from(fields[NAME_SIZE]).unwrap_or(usize::MAX);
        if length == 0 || length > PATH_MAX {
            return Err(self.damaged("length of the name"));
        }
        let mut name = vec![0; length];
        self.fill(&mut name)?;
        self.pad()?;
        if name.pop() != Some(0) {
            return Err(self.damaged("end of the name"));
        }
        let display_name = String::from_utf8_lossy(&name).into_owned();
        let name = text(name, "its name").map_err(|problem| entry(&display_name, problem))?;
        Ok((name, fields))
    }

    fn numbers<const N: usize>(&mut self) -> Result<[u32; N], ArchiveError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut digits = [0; 8];
            self.fill(&mut digits)?;
            let text =
                digits.iter().all(u8::is_ascii_hexdigit).then(|| str::from_utf8(&digits).ok()).flatten();
            let parsed = text.and_then(|text| u32::from_str_radix(text, 16).ok());
            *number = parsed.ok_or_else(|| self.damaged("number"))?;
        }
        Ok(numbers)
    }

    /// Skips padding: headers and data start at multiples of four.
    fn pad(&mut self) -> Result<(), ArchiveError> {
        self.skip(self.position.next_multiple_of(4) - self.position)
    }

    fn skip(&mut self, n: u64) -> Result<(), ArchiveError> {
        let skipped =
            io::copy(&mut self.input.by_ref().take(n), &mut io::sink()).map_err(ArchiveError::Read)?;
        self.position += skipped;
        if skipped < n { Err(self.truncated()) } else { Ok(()) }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(),
            _ => ArchiveError::Read(error),
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn truncated(&self) -> ArchiveError {
        ArchiveError::Truncated { after: self.last.clone() }
    }

    fn damaged(&self, what: &'static str) -> ArchiveError {
        entry(&format!("after {}", self.last), EntryProblem::Header(what))
    }
}
