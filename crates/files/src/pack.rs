//! The sending end: writes a file, directory or link, with its content, to a stream.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;

use crate::{
    copy_request::CopyRequest,
    stream::{Entry, Item, MAX_DEPTH, MAX_PART, MAX_TARGET, Writer},
};

/// Errors of packing.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The source does not exist or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The source has no content that can be copied.
    #[error("{} is {what}, which cannot be copied", path.display())]
    Special {
        /// Its path.
        path: PathBuf,
        /// Its kind: "a socket".
        what: &'static str,
    },
}

/// A file, directory or link to pack.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    name: Vec<u8>,
    meta: Metadata,
}

impl Source {
    /// Opens the source at `path`.
    ///
    /// A symbolic link is sent as a link, unless `follow` is set or `path` ends in a slash. A path that ends in `.`
    /// or `..` is a directory without a name: only its content is sent.
    ///
    /// # Errors
    /// Returns an error if nothing is at `path`, or if it cannot be read.
    pub fn open(path: &Path, follow: bool) -> Result<Self, PackError> {
        let request = CopyRequest::new(path, follow);
        let follow = request.follows_link();
        let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let failed = |source| PackError::Read { path: path.to_owned(), source };
        let meta = meta.map_err(failed)?;
        if request.is_directory() && !meta.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        if let Some(what) = special(&meta) {
            return Err(PackError::Special { path: path.to_owned(), what });
        }
        Ok(Self { path: path.to_owned(), name: request.name().to_vec(), meta })
    }
}

/// Packs `source` into `out`, and returns the number of files that could not be read.
///
/// The callback receives one sentence about each file that is skipped, and about a source that is a link.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub fn pack(source: &Source, out: impl Write, report: &mut dyn FnMut(String)) -> io::Result<u64> {
    let mut packer = Packer { out: Writer::new(out)?, buffer: vec![0; MAX_PART], unreadable: 0, report };
    if source.meta.is_symlink() {
        (packer.report)(format!("{} is a symbolic link, and is copied as a link", source.path.display()));
    }
    packer.entry(&source.path, source.name.clone(), &source.meta, 0)?;
    packer.out.item(&Item::End)?;
    Ok(packer.unreadable)
}

/// Packs the bytes of `input` as a file without a name.
///
/// # Errors
/// Returns an error if `out` cannot be written, or if `input` cannot be read to its end.
pub fn pack_input(mut input: impl Read, out: impl Write) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let entry = Entry {
        name: Vec::new(),
        mode: 0,
        seconds: i64::try_from(now.as_secs()).unwrap_or(0),
        nanoseconds: now.subsec_nanos(),
    };
    let mut out = Writer::new(out)?;
    out.item(&Item::File(entry))?;
    let copied = copy(&mut input, &mut out, &mut vec![0; MAX_PART]);
    out.end_file(matches!(copied, Ok(Ok(()))))?;
    out.item(&Item::End)?;
    copied?
}

/// Copies all of `input`. The outer error is from writing, the inner one from reading.
pub(crate) fn copy(
    input: &mut impl Read,
    out: &mut Writer<impl Write>,
    buffer: &mut [u8],
) -> io::Result<io::Result<()>> {
    loop {
        match input.read(buffer) {
            Ok(0) => return Ok(Ok(())),
            Ok(count) => out.data(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

struct Packer<'a, W> {
    out: Writer<W>,
    buffer: Vec<u8>,
    unreadable: u64,
    report: &'a mut dyn FnMut(String),
}

impl<W: Write> Packer<'_, W> {
    fn entry(&mut self, path: &Path, name: Vec<u8>, meta: &Metadata, depth: usize) -> io::Result<()> {
        if let Some(what) = special(meta) {
            (self.report)(format!("{} is {what}, and is not copied", path.display()));
            return Ok(());
        }
        let entry = Entry {
            name,
            mode: meta.mode() & 0o7777,
            seconds: meta.mtime(),
            nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        };
        if meta.is_dir() {
            self.directory(path, entry, depth)
        } else if meta.is_symlink() {
            self.link(path, entry)
        } else {
            self.file(path, entry, depth > 0)
        }
    }

    fn directory(&mut self, path: &Path, entry: Entry, depth: usize) -> io::Result<()> {
        if depth == MAX_DEPTH {
            self.failed(path, "directories are nested too deeply");
            return Ok(());
        }
        self.out.item(&Item::Directory(entry))?;
        match names(path) {
            Ok(names) => {
                for name in names {
                    let path = path.join(OsStr::from_bytes(&name));
                    match fs::symlink_metadata(&path) {
                        Ok(meta) => self.entry(&path, name, &meta, depth + 1)?,
                        Err(error) => self.failed(&path, error),
                    }
                }
            }
            Err(error) => self.failed(path, error),
        }
        self.out.item(&Item::Leave)
    }

    fn link(&mut self, path: &Path, entry: Entry) -> io::Result<()> {
        match fs::read_link(path) {
            Ok(target) if target.as_os_str().len() > MAX_TARGET => self.failed(path, "target too long"),
            Ok(target) => return self.out.item(&Item::Link(entry, target.into_os_string().into_vec())),
            Err(error) => self.failed(path, error),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, entry: Entry, no_follow: bool) -> io::Result<()> {
        let mut file = match open(path, no_follow) {
            Ok(file) => file,
            Err(error) => {
                self.failed(path, error);
                return Ok(());
            }
        };
        self.out.item(&Item::File(entry))?;
        let copied = copy(&mut file, &mut self.out, &mut self.buffer)?;
        self.out.end_file(copied.is_ok())?;
        if let Err(error) = copied {
            self.failed(path, error);
        }
        Ok(())
    }

    fn failed(&mut self, path: &Path, reason: impl std::fmt::Display) {
        self.unreadable += 1;
        (self.report)(format!("cannot read {}: {reason}", path.display()));
    }
}

/// Opens a regular file. Fails if it has been replaced by something else in the meantime.
fn open(path: &Path, no_follow: bool) -> io::Result<File> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    flags.set(OFlags::NOFOLLOW, no_follow);
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no longer a regular file"))
    }
}

/// Returns the names in a directory, in byte order.
fn names(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_vec()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Returns the kind of a file that cannot be copied.
fn special(meta: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_socket() {
        Some("a socket")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_block_device() || kind.is_char_device() {
        Some("a device")
    } else {
        None
    }
}
