//! The encoding of a stream. Numbers are big-endian.

use std::io::{self, Read, Write};

/// The first bytes of every stream: a name, and the version of the format.
const MAGIC: [u8; 4] = *b"bng\x01";

const DIRECTORY: u8 = 1;
const LEAVE: u8 = 2;
const FILE: u8 = 3;
const LINK: u8 = 4;
const END: u8 = 5;
const REMOVE: u8 = 6;

/// A length that no part has. It marks a file that could not be read to its end.
const BROKEN: u32 = u32::MAX;

/// Maximum length of a name, in bytes: Linux's `NAME_MAX`.
pub const MAX_NAME: usize = 255;

/// Maximum length of a symbolic link's target, in bytes: less than Linux's `PATH_MAX`.
pub const MAX_TARGET: usize = 4095;

/// Maximum nesting of directories. The receiver holds a descriptor for each, of the 1024 that a process has by
/// default.
pub const MAX_DEPTH: usize = 256;

/// Maximum length of a part, in bytes.
pub const MAX_PART: usize = 64 << 10;

/// The name and metadata of a file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; empty for a top-level item without one, such as the data of a pipe.
    pub name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, in seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds of the modification time.
    pub nanoseconds: u32,
}

/// An item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Enters a directory: the items that follow are in it.
    Directory(Entry),
    /// Leaves the directory entered last.
    Leave,
    /// A file, whose parts follow.
    File(Entry),
    /// A symbolic link and its target.
    Link(Entry, Vec<u8>),
    /// Removes this name from the directory entered last: a file, a link, or an empty directory.
    Remove(Vec<u8>),
    /// The end of the stream.
    End,
}

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The next bytes of the file.
    Bytes(&'a [u8]),
    /// The file is complete.
    Complete,
    /// The file could not be read to its end.
    Broken,
}

/// Errors of reading a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream ended early.
    #[error("the stream ended early")]
    Truncated,
    /// The stream is malformed.
    #[error("malformed stream: {0}")]
    Malformed(&'static str),
    /// Reading failed.
    #[error("{0}")]
    Read(io::Error),
}

/// Writes a stream. The caller is responsible for the order of its items.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Starts a stream.
    ///
    /// # Errors
    /// Returns an error if the stream cannot be written. The other methods do too.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self { out })
    }

    /// Writes `item`.
    ///
    /// # Errors
    /// Returns `InvalidInput` if a name or target is too long.
    pub fn item(&mut self, item: &Item) -> io::Result<()> {
        match item {
            Item::Directory(entry) => self.entry(DIRECTORY, entry),
            Item::File(entry) => self.entry(FILE, entry),
            Item::Link(entry, target) => {
                self.entry(LINK, entry)?;
                self.bytes(target, MAX_TARGET)
            }
            Item::Remove(name) => {
                self.out.write_all(&[REMOVE])?;
                self.bytes(name, MAX_NAME)
            }
            Item::Leave => self.out.write_all(&[LEAVE]),
            Item::End => {
                self.out.write_all(&[END])?;
                self.out.flush()
            }
        }
    }

    /// Writes the next bytes of the current file.
    ///
    /// # Errors
    /// Returns an error if they cannot be written.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MAX_PART) {
            self.out.write_all(&u32::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes())?;
            self.out.write_all(part)?;
        }
        Ok(())
    }

    /// Ends the current file. `complete` says whether all of it was written.
    ///
    /// # Errors
    /// Returns an error if the mark cannot be written.
    pub fn end_file(&mut self, complete: bool) -> io::Result<()> {
        self.out.write_all(&if complete { 0 } else { BROKEN }.to_be_bytes())
    }

    /// Flushes the stream.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Returns the underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn entry(&mut self, kind: u8, entry: &Entry) -> io::Result<()> {
        self.out.write_all(&[kind])?;
        self.out.write_all(&entry.mode.to_be_bytes())?;
        self.out.write_all(&entry.seconds.to_be_bytes())?;
        self.out.write_all(&entry.nanoseconds.to_be_bytes())?;
        self.bytes(&entry.name, MAX_NAME)
    }

    fn bytes(&mut self, bytes: &[u8], max: usize) -> io::Result<()> {
        let length = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() <= max);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a name is too long"))?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(bytes)
    }
}

/// Reads a possibly hostile stream: its items are bounded and correctly nested, and their names are safe to create.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    depth: usize,
    started: bool,
    in_file: bool,
    part: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Starts reading a stream.
    ///
    /// # Errors
    /// Returns an error if `input` does not start with a stream's first bytes.
    pub fn new(input: R) -> Result<Self, StreamError> {
        let mut reader = Self { input, depth: 0, started: false, in_file: false, part: Vec::new() };
        if reader.array()? == MAGIC { Ok(reader) } else { Err(malformed("invalid magic number")) }
    }

    /// Returns the next item. Skips the rest of the current file.
    ///
    /// # Errors
    /// Returns an error if the stream is malformed, ends early or cannot be read.
    pub fn next_item(&mut self) -> Result<Item, StreamError> {
        while self.in_file {
            self.next_part()?;
        }
        let [kind] = self.array()?;
        // A stream has exactly one top-level item.
        match (kind, self.depth, self.started) {
            (END, 0, true) => return Ok(Item::End),
            (END, ..) => return Err(malformed("unexpected end marker")),
            (_, 0, true) => return Err(malformed("more than one top-level item")),
            (LEAVE, 0, _) => return Err(malformed("end of a directory that was not entered")),
            (REMOVE, 0, _) => return Err(malformed("removal outside a directory")),
            _ => self.started = true,
        }
        if kind == LEAVE {
            self.depth -= 1;
            return Ok(Item::Leave);
        }
        if kind == REMOVE {
            return self.name().map(Item::Remove);
        }
        let entry = self.entry()?;
        match kind {
            DIRECTORY if self.depth == MAX_DEPTH => Err(malformed("directories are nested too deeply")),
            DIRECTORY => {
                self.depth += 1;
                Ok(Item::Directory(entry))
            }
            FILE => {
                self.in_file = true;
                Ok(Item::File(entry))
            }
            LINK => {
                let target = self.bytes(MAX_TARGET)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(malformed("invalid link target"));
                }
                Ok(Item::Link(entry, target))
            }
            _ => Err(malformed("unknown item kind")),
        }
    }

    /// Returns the next part of the file that [`next_item`](Self::next_item) has started.
    ///
    /// # Errors
    /// Returns an error if the stream is malformed, ends early or cannot be read.
    pub fn next_part(&mut self) -> Result<Part<'_>, StreamError> {
        if !self.in_file {
            return Ok(Part::Complete);
        }
        let length = u32::from_be_bytes(self.array()?);
        if matches!(length, 0 | BROKEN) {
            self.in_file = false;
            return Ok(if length == 0 { Part::Complete } else { Part::Broken });
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PART);
        self.part.resize(length.ok_or_else(|| malformed("part too long"))?, 0);
        fill(&mut self.input, &mut self.part)?;
        Ok(Part::Bytes(&self.part))
    }

    fn entry(&mut self) -> Result<Entry, StreamError> {
        let mode = u32::from_be_bytes(self.array()?);
        let seconds = i64::from_be_bytes(self.array()?);
        let nanoseconds = u32::from_be_bytes(self.array()?);
        // utimensat(2) gives larger values a special meaning.
        if nanoseconds >= 1_000_000_000 {
            return Err(malformed("invalid time"));
        }
        Ok(Entry { name: self.name()?, mode, seconds, nanoseconds })
    }

    /// Reads a single component. Only the top-level item may have an empty name.
    fn name(&mut self) -> Result<Vec<u8>, StreamError> {
        let name = self.bytes(MAX_NAME)?;
        let nameless = name.is_empty() && self.depth > 0;
        if nameless || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(malformed("invalid name"));
        }
        Ok(name)
    }

    fn bytes(&mut self, max: usize) -> Result<Vec<u8>, StreamError> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        if length > max {
            return Err(malformed("name too long"));
        }
        let mut bytes = vec![0; length];
        fill(&mut self.input, &mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut array = [0; N];
        fill(&mut self.input, &mut array)?;
        Ok(array)
    }
}

pub(crate) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), StreamError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::Truncated,
        _ => StreamError::Read(error),
    })
}

pub(crate) fn malformed(problem: &'static str) -> StreamError {
    StreamError::Malformed(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(name: &[u8]) -> Entry {
        Entry { name: name.to_vec(), mode: 0o644, seconds: -1, nanoseconds: 999_999_999 }
    }

    fn written(items: &[Item]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        for item in items {
            writer.item(item).unwrap();
            if let Item::File(_) = item {
                writer.end_file(true).unwrap();
            }
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Item>, StreamError> {
        let mut reader = Reader::new(bytes)?;
        let mut items = Vec::new();
        loop {
            items.push(reader.next_item()?);
            if items.last() == Some(&Item::End) {
                return Ok(items);
            }
        }
    }

    #[test]
    fn written_items_are_read_back_unchanged() {
        let items = [
            Item::Directory(entry(b"a b")),
            Item::File(entry(b"\xff\n")),
            Item::Directory(entry(b"in")),
            Item::Leave,
            Item::Link(entry(b"l"), b"../x".to_vec()),
            Item::Remove(b"gone".to_vec()),
            Item::Leave,
            Item::End,
        ];
        assert_eq!(read(&written(&items)).unwrap(), items);
    }

    #[test]
    fn a_file_is_read_in_parts_and_reported_as_complete_or_broken() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        writer.item(&Item::File(entry(b"f"))).unwrap();
        writer.data(&[7; MAX_PART + 1]).unwrap();
        writer.end_file(false).unwrap();
        writer.item(&Item::End).unwrap();
        let mut reader = Reader::new(&*bytes).unwrap();
        reader.next_item().unwrap();
        assert_eq!(reader.next_part().unwrap(), Part::Bytes(&[7; MAX_PART]));
        assert_eq!(reader.next_part().unwrap(), Part::Bytes(&[7]));
        assert_eq!(reader.next_part().unwrap(), Part::Broken);
        assert_eq!(reader.next_item().unwrap(), Item::End);
    }

    #[test]
    fn names_that_are_not_single_components_are_rejected() {
        for name in [&b".."[..], b".", b"a/b", b"/etc", b"a\0b"] {
            let bytes = written(&[Item::File(entry(name)), Item::End]);
            assert!(matches!(read(&bytes), Err(StreamError::Malformed(_))), "{name:?}");
        }
        let nested_without_name =
            [Item::Directory(entry(b"a")), Item::File(entry(b"")), Item::Leave, Item::End];
        assert!(read(&written(&nested_without_name)).is_err());
        assert!(read(&written(&[Item::File(entry(b"")), Item::End])).is_ok());
    }

    #[test]
    fn streams_without_exactly_one_item_and_an_end_are_rejected() {
        for items in [
            &[Item::End][..],
            &[Item::Leave, Item::End],
            &[Item::File(entry(b"a")), Item::File(entry(b"b")), Item::End],
            &[Item::Directory(entry(b"a")), Item::End],
            &[Item::Remove(b"a".to_vec()), Item::End],
            &[Item::Directory(entry(b"a")), Item::Remove(b"..".to_vec()), Item::Leave, Item::End],
        ] {
            assert!(matches!(read(&written(items)), Err(StreamError::Malformed(_))), "{items:?}");
        }
        let mut deep = vec![Item::Directory(entry(b"a")); MAX_DEPTH + 1];
        assert!(matches!(read(&written(&deep)), Err(StreamError::Malformed(_))));
        deep.truncate(3);
        assert!(matches!(read(&written(&deep)), Err(StreamError::Truncated)));
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_returns_items_or_an_error(bytes in prop::collection::vec(0u8..8, 0..400)) {
            let _ = read(&[&MAGIC[..], &bytes].concat());
        }
    }
}
