//! Reads the container of an RPM package: lead, signature, header, payload.
//!
//! Formats: rpm's docs/manual/format_v4.md and format_v6.md. From the header it reads only metadata that a payload
//! may leave out.

use std::collections::HashMap;
use std::io::{self, Read};

use super::PATH_MAX;
use crate::error::PackageError;

pub(crate) const MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];

/// Length of the lead in bytes, and the position of the package type in it: 0 is a binary package.
const LEAD: usize = 96;
const PACKAGE_TYPE: std::ops::Range<usize> = 6..8;

const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 0x01];

/// Maximum number of entries and of data bytes in a header; a kernel with 6 000 files has under 100 and 2 MB.
const MAX_ENTRIES: u32 = 4096;
const MAX_DATA: u32 = 32 << 20;

/// Maximum number of files in a package.
const MAX_FILES: usize = 200_000;

/// Tags of the header (rpm's include/rpm/rpmtag.h).
const FILE_SIZES: u32 = 1028;
const FILE_MODES: u32 = 1030;
const FILE_INODES: u32 = 1096;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;
const PAYLOAD_FORMAT: u32 = 1124;
const LONG_FILE_SIZES: u32 = 5008;

/// Metadata of the package's files, in the header's order.
#[derive(Debug, Default)]
pub(crate) struct Files {
    dirs: Vec<String>,
    names: Vec<String>,
    dir_indexes: Vec<u64>,
    sizes: Vec<u64>,
    modes: Vec<u64>,
    /// The last file with each inode.
    last_with_inode: HashMap<u64, usize>,
    inodes: Vec<u64>,
}

/// Metadata of one file.
#[derive(Debug)]
pub(crate) struct PackagedFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    /// Whether the content is stored with this name, not with a later hard link.
    pub(crate) has_content: bool,
}

impl Files {
    /// Returns the file with this index.
    pub(crate) fn get(&self, index: usize) -> Option<PackagedFile> {
        let dir = self.dirs.get(usize::try_from(*self.dir_indexes.get(index)?).ok()?)?;
        let name = self.names.get(index)?;
        if dir.len() + name.len() > PATH_MAX {
            return None;
        }
        let inode = self.inodes.get(index);
        Some(PackagedFile {
            path: format!("{dir}{name}"),
            size: *self.sizes.get(index)?,
            mode: u32::try_from(*self.modes.get(index)?).ok()?,
            has_content: inode.is_none_or(|inode| self.last_with_inode.get(inode) == Some(&index)),
        })
    }
}

/// Reads everything before the payload, and returns the metadata of its files.
pub(crate) fn header(input: &mut impl Read) -> Result<Files, PackageError> {
    let mut lead = [0; LEAD];
    fill(input, &mut lead)?;
    if !lead.starts_with(&MAGIC) {
        return Err(PackageError::Rpm("it does not start with the magic number of an RPM"));
    }
    if lead[PACKAGE_TYPE] != [0, 0] {
        return Err(PackageError::Rpm("it is a source package"));
    }
    let signature = Header::read(input)?;
    // The signature is padded to a multiple of 8 bytes.
    let padding = signature.data.len().next_multiple_of(8) - signature.data.len();
    fill(input, &mut [0; 8][..padding])?;
    let header = Header::read(input)?;
    let format = header.strings(PAYLOAD_FORMAT)?;
    if format.first().is_some_and(|format| format != "cpio") {
        return Err(PackageError::Rpm("its payload is not a cpio archive"));
    }
    header.files()
}

const OUT_OF_BOUNDS: PackageError = PackageError::Rpm("its header points beyond its end");

/// A tag's value in a header.
struct Value<'a> {
    kind: u32,
    count: usize,
    /// The data from the value's start to the end of the header.
    data: &'a [u8],
}

/// A header structure: its index entries and its data.
struct Header {
    entries: Vec<[u32; 4]>,
    data: Vec<u8>,
}

impl Header {
    fn read(input: &mut impl Read) -> Result<Self, PackageError> {
        let mut start = [0; 16];
        fill(input, &mut start)?;
        let [_, _, count, size] = words(&start);
        if !start.starts_with(&HEADER_MAGIC) || count > MAX_ENTRIES || size > MAX_DATA {
            return Err(PackageError::Rpm("its header is damaged"));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let mut entry = [0; 16];
            fill(input, &mut entry)?;
            entries.push(words(&entry));
        }
        let mut data = Vec::new();
        input.take(u64::from(size)).read_to_end(&mut data).map_err(PackageError::Read)?;
        if (data.len() as u64) < u64::from(size) {
            return Err(PackageError::Truncated);
        }
        Ok(Self { entries, data })
    }

    fn files(&self) -> Result<Files, PackageError> {
        let mut sizes = self.numbers(LONG_FILE_SIZES)?;
        if sizes.is_empty() {
            sizes = self.numbers(FILE_SIZES)?;
        }
        let inodes = self.numbers(FILE_INODES)?;
        Ok(Files {
            dirs: self.strings(DIR_NAMES)?,
            names: self.strings(BASE_NAMES)?,
            dir_indexes: self.numbers(DIR_INDEXES)?,
            sizes,
            modes: self.numbers(FILE_MODES)?,
            last_with_inode: inodes.iter().enumerate().map(|(index, inode)| (*inode, index)).collect(),
            inodes,
        })
    }

    fn find(&self, tag: u32) -> Result<Option<Value<'_>>, PackageError> {
        let Some([_, kind, offset, count]) = self.entries.iter().find(|entry| entry[0] == tag) else {
            return Ok(None);
        };
        let count = usize::try_from(*count).ok().filter(|count| *count <= MAX_FILES);
        let data = usize::try_from(*offset).ok().and_then(|offset| self.data.get(offset..));
        match (count, data) {
            (Some(count), Some(data)) => Ok(Some(Value { kind: *kind, count, data })),
            _ => Err(OUT_OF_BOUNDS),
        }
    }

    /// Returns a tag's numbers of 16, 32 or 64 bits; none if the tag is missing.
    fn numbers(&self, tag: u32) -> Result<Vec<u64>, PackageError> {
        let Some(Value { kind, count, data }) = self.find(tag)? else { return Ok(Vec::new()) };
        let width = match kind {
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Err(PackageError::Rpm("a number in its header has the wrong type")),
        };
        let data = data.get(..count * width).ok_or(OUT_OF_BOUNDS)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok(data.chunks_exact(width).map(number).collect())
    }

    /// Returns a tag's strings, with invalid UTF-8 replaced; none if the tag is missing.
    fn strings(&self, tag: u32) -> Result<Vec<String>, PackageError> {
        let Some(Value { kind, count, data }) = self.find(tag)? else { return Ok(Vec::new()) };
        if !matches!(kind, 6 | 8 | 9) {
            return Err(PackageError::Rpm("a string in its header has the wrong type"));
        }
        let strings: Vec<_> = data.split_inclusive(|byte| *byte == 0).take(count).collect();
        match strings.last() {
            Some(last) if strings.len() == count && last.ends_with(&[0]) => {}
            None if count == 0 => {}
            _ => return Err(OUT_OF_BOUNDS),
        }
        Ok(strings.iter().map(|text| String::from_utf8_lossy(&text[..text.len() - 1]).into_owned()).collect())
    }
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    words
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), PackageError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => PackageError::Truncated,
        _ => PackageError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::rpm;
    use crate::archive::{ArchiveError, CpioReader};
    use proptest::prelude::*;
    use std::fs;
    use std::sync::OnceLock;

    /// Builds a package with an uncompressed payload: a file, two hard links, a symlink and directories.
    fn package() -> &'static [u8] {
        static PACKAGE: OnceLock<Vec<u8>> = OnceLock::new();
        PACKAGE.get_or_init(|| {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("lib/modules/6.1");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("a"), b"one").unwrap();
            fs::write(dir.join("b"), b"twice").unwrap();
            fs::hard_link(dir.join("b"), dir.join("c")).unwrap();
            std::os::unix::fs::symlink("/usr/src", dir.join("d")).unwrap();
            fs::create_dir(dir.join("e")).unwrap();
            rpm(root.path(), "w.ufdio")
        })
    }

    /// Returns the regular files whose content is stored with their name.
    fn contents(package: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut input = package;
        let files = header(&mut input).map_err(|error| error.to_string())?;
        let read = || -> Result<_, ArchiveError> {
            let mut cpio = CpioReader::new(input, &files);
            let mut contents = Vec::new();
            while let Some(entry) = cpio.next()? {
                let mut bytes = Vec::new();
                cpio.data().read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
                if entry.size.is_some() {
                    let path = entry.path.trim_start_matches('.').trim_start_matches("/lib/modules/6.1/");
                    contents.push((path.to_owned(), bytes));
                }
            }
            Ok(contents)
        };
        read().map_err(|error| error.to_string())
    }

    /// Rewrites the package's payload so that it leaves names, sizes and modes to the header.
    fn stripped() -> Vec<u8> {
        let mut input = package();
        let files = header(&mut input).unwrap();
        let start = package().len() - input.len();
        let mut bytes = package()[..start].to_vec();
        for index in (0..).take_while(|index| files.get(*index).is_some()) {
            let file = files.get(index).unwrap();
            let content: &[u8] = match file.path.rsplit('/').next() {
                Some("a") => b"one",
                Some("c") => b"twice",
                Some("d") => b"/usr/src",
                _ => b"",
            };
            bytes.extend(format!("07070X{index:08x}").bytes());
            for part in [&b""[..], content] {
                bytes.extend(part);
                bytes.resize(start + (bytes.len() - start).next_multiple_of(4), 0);
            }
        }
        bytes.extend(b"070701");
        bytes.extend("00000000".repeat(11).bytes());
        bytes.extend(b"0000000b00000000TRAILER!!!\0\0\0\0");
        bytes
    }

    #[test]
    fn both_payload_formats_yield_the_same_files() {
        let expected = [("a", &b"one"[..]), ("c", b"twice")];
        let expected: Vec<_> =
            expected.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        assert_eq!(contents(package()).unwrap(), expected);
        assert_eq!(contents(&stripped()).unwrap(), expected);
    }

    #[test]
    fn truncated_packages_are_rejected() {
        for package in [package().to_vec(), stripped()] {
            let full_length = package.len();
            for length in (0..full_length).step_by(61).chain(full_length - 200..full_length - 140) {
                assert!(contents(&package[..length]).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn source_packages_and_damaged_headers_are_rejected() {
        let mut source = package().to_vec();
        source[7] = 1;
        assert_eq!(contents(&source).unwrap_err(), "not a usable RPM: it is a source package");
        let mut large = package().to_vec();
        large[LEAD + 8..LEAD + 12].copy_from_slice(&[0xff; 4]);
        assert_eq!(contents(&large).unwrap_err(), "not a usable RPM: its header is damaged");
    }

    proptest! {
        #[test]
        fn reading_a_changed_package_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            strip: bool,
        ) {
            let mut bytes = if strip { stripped() } else { package().to_vec() };
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = contents(&bytes);
        }
    }
}
