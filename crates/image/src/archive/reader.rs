//! The tar reader: ustar, GNU (long names, old sparse files) and PAX.
//!
//! It reads any `Read`, so the same checks apply to a package's stream, a spool file and a fuzzer's bytes. Formats:
//! POSIX.1-2017 "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read, Seek, SeekFrom};

use tar::Header;

use super::member::{Extent, Member, MemberKind};
use super::pax::Pax;
use super::sparse::{self, MapParser};
use super::{MAX_FILE, NAME_MAX, PATH_MAX};
use crate::error::{ArchiveError, EntryProblem};

const BLOCK: u64 = 512;

/// Maximum size of a long name or extended header, in bytes: 16 times ext4's largest set of attributes.
const MAX_EXTENSION: u64 = 1 << 20;

/// Maximum number of data runs of all sparse files together (24 MiB of memory).
const MAX_SEGMENTS: usize = 1 << 20;

/// Times that ext4 can store, in seconds: 34 bits, from 1901 to 2446.
const TIME_RANGE: (i64, i64) = (-(1 << 31), (1 << 34) - (1 << 31) - 1);

/// Device numbers that ext4 can store.
const MAX_MAJOR: u32 = 0xfff;
const MAX_MINOR: u32 = 0xf_ffff;

/// Reads the members of a tar archive.
pub(crate) struct TarReader<R> {
    input: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Length of the input, if known in advance.
    length: Option<u64>,
    position: u64,
    next_header: u64,
    /// End of the current member's data.
    data_end: u64,
    globals: Pax,
    segments_remaining: usize,
    last: String,
}

impl<R: Read + Seek> TarReader<R> {
    /// Creates a reader of a seekable input, from its beginning.
    pub(crate) fn seekable(mut input: R) -> Result<Self, ArchiveError> {
        let length = input.seek(SeekFrom::End(0)).map_err(ArchiveError::Read)?;
        input.rewind().map_err(ArchiveError::Read)?;
        // A distance over i64::MAX exceeds any length, and `reserve` has already rejected it.
        Ok(Self::new(
            input,
            |input, n| input.seek_relative(i64::try_from(n).unwrap_or(i64::MAX)),
            Some(length),
        ))
    }
}

impl<R: Read> TarReader<R> {
    /// Creates a reader of an input that can only be read forward.
    pub(crate) fn stream(input: R) -> Self {
        let skip = |input: &mut R, n| match io::copy(&mut input.by_ref().take(n), &mut io::sink())? {
            skipped if skipped == n => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Self::new(input, skip, None)
    }

    fn new(input: R, skip: fn(&mut R, u64) -> io::Result<()>, length: Option<u64>) -> Self {
        Self {
            input,
            skip,
            length,
            position: 0,
            next_header: 0,
            data_end: 0,
            globals: Pax::default(),
            segments_remaining: MAX_SEGMENTS,
            last: "the start".to_owned(),
        }
    }

    /// Returns the next member, or `None` at the end marker.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut pax = self.globals.clone();
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            let kind = header.as_bytes()[156];
            match kind {
                b'L' => long_name = Some(until_nul(self.extension(&header, &name)?)),
                b'K' => long_link = Some(until_nul(self.extension(&header, &name)?)),
                b'x' | b'X' | b'g' => {
                    let bytes = self.extension(&header, &name)?;
                    let target = if kind == b'g' { &mut self.globals } else { &mut pax };
                    target.read(&bytes, self.segments_remaining).map_err(|problem| entry(&name, problem))?;
                    if kind == b'g' {
                        pax.read(&bytes, self.segments_remaining).map_err(|problem| entry(&name, problem))?;
                    }
                }
                // A volume label does not describe a file.
                b'V' => self.skip_header_data(&header, &name)?,
                _ => {
                    let path = pax.sparse.name.take().or(pax.path.take()).or(long_name);
                    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let display_name = String::from_utf8_lossy(&path).into_owned();
                    let link = pax.link.take().or(long_link);
                    let member = self.member(&header, path, link, pax, &display_name)?;
                    self.last = format!("{display_name:?}");
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Returns the input, after the end marker was read.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Returns a reader of the rest of the current member's stored bytes.
    pub(crate) fn data(&mut self) -> impl Read + '_ {
        let remaining = self.data_end.saturating_sub(self.position);
        CountingReader { position: &mut self.position, input: self.input.by_ref().take(remaining) }
    }

    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let distance = self.next_header - self.position;
        (self.skip)(&mut self.input, distance).map_err(|error| self.read_error(error))?;
        self.position = self.next_header;
        let first = self.position == 0;
        let mut block = [0; BLOCK as usize];
        match self.read_block(&mut block)? {
            0 if first => return Err(ArchiveError::Empty),
            512 => {}
            _ if first => return Err(ArchiveError::NotTar),
            _ => return Err(self.truncated()),
        }
        if block == [0; BLOCK as usize] {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum().ok() != Some(checksum(&block)) {
            let problem = EntryProblem::Header("checksum");
            return Err(if first {
                ArchiveError::NotTar
            } else {
                entry(&format!("after {}", self.last), problem)
            });
        }
        self.next_header = self.position;
        Ok(Some(header))
    }

    /// Reads up to one block; fewer bytes only at the end of the input.
    fn read_block(&mut self, block: &mut [u8; BLOCK as usize]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }

    fn full_block(&mut self) -> Result<[u8; BLOCK as usize], ArchiveError> {
        let mut block = [0; BLOCK as usize];
        if self.read_block(&mut block)? < block.len() { Err(self.truncated()) } else { Ok(block) }
    }

    /// Reserves `size` bytes of data from the current position.
    fn reserve(&mut self, size: u64, display_name: &str) -> Result<(), ArchiveError> {
        let end = self.position.checked_add(size);
        let next = end
            .and_then(|end| end.checked_next_multiple_of(BLOCK))
            .filter(|next| i64::try_from(*next).is_ok());
        let (Some(end), Some(next)) = (end, next) else {
            return Err(entry(display_name, EntryProblem::Header("size")));
        };
        if self.length.is_some_and(|length| end > length) {
            return Err(ArchiveError::Truncated { after: format!("{display_name:?}") });
        }
        self.data_end = end;
        self.next_header = next;
        Ok(())
    }

    fn extension(&mut self, header: &Header, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let size = header.entry_size().map_err(|_| entry(name, EntryProblem::Header("size")))?;
        if size > MAX_EXTENSION {
            return Err(entry(name, EntryProblem::ExtensionTooLong { size, limit: MAX_EXTENSION }));
        }
        self.reserve(size, name)?;
        let mut bytes = Vec::new();
        self.data().read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        if (bytes.len() as u64) < size {
            return Err(ArchiveError::Truncated { after: format!("{name:?}") });
        }
        Ok(bytes)
    }

    fn skip_header_data(&mut self, header: &Header, name: &str) -> Result<(), ArchiveError> {
        let size = header.entry_size().map_err(|_| entry(name, EntryProblem::Header("size")))?;
        self.reserve(size, name)
    }

    fn member(
        &mut self,
        header: &Header,
        path: Vec<u8>,
        link: Option<Vec<u8>>,
        pax: Pax,
        display_name: &str,
    ) -> Result<Member, ArchiveError> {
        let refuse = |problem| entry(display_name, problem);
        let field = |name: &'static str| move |_: io::Error| entry(display_name, EntryProblem::Header(name));
        let path = text(path, "its name").map_err(refuse)?;
        let link = || {
            let bytes = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
            text(bytes, "its target").map_err(refuse)
        };
        let kind = match header.as_bytes()[156] {
            // Before ustar, a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if !path.ends_with('/') => self.file(header, &pax, display_name)?,
            b'S' => self.file(header, &pax, display_name)?,
            0 | b'0' | b'5' | b'7' => MemberKind::Directory,
            b'1' => MemberKind::HardLink(link()?),
            b'2' => MemberKind::Symlink(link()?),
            b'3' => device(header).map(|(major, minor)| MemberKind::Char { major, minor }).map_err(refuse)?,
            b'4' => {
                device(header).map(|(major, minor)| MemberKind::Block { major, minor }).map_err(refuse)?
            }
            b'6' => MemberKind::Fifo,
            other => return Err(refuse(EntryProblem::Type(char::from(other)))),
        };
        let seconds = number(&header.as_old().mtime, header.mtime()).map_err(field("mtime"))?;
        let mtime = pax.mtime.unwrap_or((i64::try_from(seconds).unwrap_or(i64::MAX), 0));
        let mode =
            number(&header.as_old().mode, header.mode().map(u64::from)).map_err(field("mode"))? & 0o7777;
        let uid =
            pax.uid.map_or_else(|| number(&header.as_old().uid, header.uid()), Ok).map_err(field("uid"))?;
        let gid =
            pax.gid.map_or_else(|| number(&header.as_old().gid, header.gid()), Ok).map_err(field("gid"))?;
        let mut xattrs = Vec::with_capacity(pax.xattrs.len());
        for (name, value) in pax.xattrs {
            xattrs.push((text(name, "an extended attribute's name").map_err(refuse)?, value));
        }
        Ok(Member {
            path,
            kind,
            mode: u16::try_from(mode).unwrap_or_default(),
            uid: owner(uid).map_err(refuse)?,
            gid: owner(gid).map_err(refuse)?,
            // The kernel also clamps times that ext4 cannot store.
            mtime: if mtime.0 < TIME_RANGE.0 || mtime.0 > TIME_RANGE.1 {
                (mtime.0.clamp(TIME_RANGE.0, TIME_RANGE.1), 0)
            } else {
                mtime
            },
            xattrs,
        })
    }

    fn file(&mut self, header: &Header, pax: &Pax, display_name: &str) -> Result<MemberKind, ArchiveError> {
        let refuse = |problem| entry(display_name, problem);
        let stored = pax.size.map_or_else(|| header.entry_size(), Ok);
        let stored = stored.map_err(|_| refuse(EntryProblem::Header("size")))?;
        let sparse = &pax.sparse;
        let (size, extents) = if header.as_bytes()[156] == b'S' {
            let size = header.size().map_err(|_| refuse(EntryProblem::Header("real size")))?;
            let map = self.gnu_map(header, display_name)?;
            self.reserve(stored, display_name)?;
            (size, sparse::extents(map, size, self.position, stored).map_err(refuse)?)
        } else if sparse.in_data {
            let size = sparse.size.ok_or(refuse(EntryProblem::Sparse))?;
            let start = self.position;
            self.reserve(stored, display_name)?;
            let map = self.data_map(display_name)?;
            let stored = stored.checked_sub(self.position - start).ok_or(refuse(EntryProblem::Sparse))?;
            (size, sparse::extents(map, size, self.position, stored).map_err(refuse)?)
        } else if let (Some(map), Some(size)) = (&sparse.map, sparse.size) {
            self.reserve(stored, display_name)?;
            (size, sparse::extents(sparse::pairs(map), size, self.position, stored).map_err(refuse)?)
        } else {
            self.reserve(stored, display_name)?;
            let whole = Extent { at: 0, archive: self.position, length: stored };
            (stored, if stored == 0 { Vec::new() } else { vec![whole] })
        };
        if size > MAX_FILE {
            return Err(refuse(EntryProblem::FileTooLarge(size)));
        }
        if extents.len() > 1 {
            self.segments_remaining =
                self.segments_remaining.checked_sub(extents.len()).ok_or(refuse(EntryProblem::Sparse))?;
        }
        Ok(MemberKind::File { size, extents })
    }

    /// Reads the map of an old GNU sparse file: 4 runs in the header, 21 in each following block.
    fn gnu_map(&mut self, header: &Header, display_name: &str) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let refuse = |problem| entry(display_name, problem);
        let gnu = header.as_gnu().ok_or(refuse(EntryProblem::Sparse))?;
        let mut map = Vec::new();
        let mut add = |runs: &[tar::GnuSparseHeader]| {
            for run in runs.iter().filter(|run| !run.is_empty()) {
                let (Ok(at), Ok(length)) = (run.offset(), run.length()) else {
                    return Err(EntryProblem::Sparse);
                };
                map.push((at, length));
            }
            if map.len() > MAX_SEGMENTS { Err(EntryProblem::Sparse) } else { Ok(()) }
        };
        add(&gnu.sparse).map_err(refuse)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.full_block()?;
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            add(extended.sparse()).map_err(refuse)?;
            more = extended.is_extended();
        }
        Ok(map)
    }

    fn data_map(&mut self, display_name: &str) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut parser = MapParser::default();
        loop {
            if self.position >= self.data_end {
                return Err(entry(display_name, EntryProblem::Sparse));
            }
            let block = self.full_block()?;
            if parser
                .block(&block, self.segments_remaining)
                .map_err(|problem| entry(display_name, problem))?
            {
                return Ok(parser.pairs());
            }
        }
    }

    fn truncated(&self) -> ArchiveError {
        ArchiveError::Truncated { after: self.last.clone() }
    }

    fn read_error(&self, error: io::Error) -> ArchiveError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.truncated()
        } else {
            ArchiveError::Read(error)
        }
    }
}

/// Updates the reader's position while a member's data is read.
pub(super) struct CountingReader<'a, R> {
    pub(super) position: &'a mut u64,
    pub(super) input: R,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        *self.position += n as u64;
        Ok(n)
    }
}

pub(super) fn entry(display_name: &str, problem: EntryProblem) -> ArchiveError {
    // A hostile name must not fill the log.
    ArchiveError::Entry { entry: display_name.chars().take(PATH_MAX).collect(), problem }
}

/// Sums the header's bytes, with the checksum field as spaces.
fn checksum(block: &[u8; BLOCK as usize]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(nul);
    }
    bytes
}

/// Checks a name: UTF-8, not empty, no NUL, no component over 255 bytes.
pub(super) fn text(bytes: Vec<u8>, what: &'static str) -> Result<String, EntryProblem> {
    if bytes.is_empty() {
        return Err(EntryProblem::EmptyName(what));
    }
    if bytes.contains(&0) {
        return Err(EntryProblem::Nul(what));
    }
    if bytes.len() >= PATH_MAX || bytes.split(|b| *b == b'/').any(|part| part.len() > NAME_MAX) {
        return Err(EntryProblem::TooLong(what));
    }
    String::from_utf8(bytes).map_err(|_| EntryProblem::NotUtf8(what))
}

/// Returns a header's number. A blank field, as some writers leave it, is zero, as in GNU tar.
fn number(field: &[u8], read: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read }
}

fn owner(id: u64) -> Result<u32, EntryProblem> {
    // The highest id means "unchanged" to chown and is not a valid owner.
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(EntryProblem::Owner(id))
}

fn device(header: &Header) -> Result<(u32, u32), EntryProblem> {
    let part =
        |value: io::Result<Option<u32>>| value.ok().flatten().ok_or(EntryProblem::Header("device number"));
    let (major, minor) = (part(header.device_major())?, part(header.device_minor())?);
    if major > MAX_MAJOR || minor > MAX_MINOR {
        Err(EntryProblem::Device(major, minor))
    } else {
        Ok((major, minor))
    }
}
