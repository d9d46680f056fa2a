//! The receiving end: what a stream holds, made where it was asked for and nowhere else.
//!
//! Files and links are made under a name of their own first and then renamed, so that what was there is whole until
//! what replaces it is, and a link that was there is replaced and not written through.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat,
        renameat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use crate::stream::{Entry, Item, Part, Reader, StreamError};

/// How what comes is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Beside what is there, and in its place when it is whole.
    Copied,
    /// So, and what is to go goes.
    Changed,
    /// In a folder that nobody else sees yet.
    Fresh,
}

/// Permissions that are kept. What makes a program run as its owner is not: the owner is another one now.
const KEPT: u32 = 0o1777;

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// Permissions of a file that came without any, as from a pipe.
const PLAIN: u32 = 0o644;

/// Why unpacking has ended early.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is of no use.
    #[error("what came cannot be unpacked: {0}")]
    Stream(#[from] StreamError),
    /// There is no folder for it to be in.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// A folder must be there, and something else is.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// What has no name of its own needs one.
    #[error("{} is a folder: say how the file in it is to be called", .0.display())]
    NeedsName(PathBuf),
    /// Only a file replaces a file.
    #[error("{} is {is} and is not replaced", path.display())]
    NotReplaced {
        /// Which.
        path: PathBuf,
        /// What it is: "a folder".
        is: &'static str,
    },
    /// A file was wanted, and something else came.
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    /// Only what is not there can be placed, or an empty folder.
    #[error("there is something at {} already", .0.display())]
    Occupied(PathBuf),
    /// Somebody else is at it.
    #[error("something else is being placed in {} at this moment", .0.display())]
    Busy(PathBuf),
    /// Only a part of the file came.
    #[error("it could not be read to its end")]
    Broken,
    /// It could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What has been unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: u64,
    /// Files of which only a part came, so that they were not made.
    pub broken: u64,
}

/// Unpacks `stream` to `target`, as `cp -a` would: into it where it is a folder, else as it, in a folder that is there.
/// `done` counts what has been unpacked, also before an error.
///
/// # Errors
/// When the stream ends early or is none, or something cannot be made.
pub fn unpack(stream: impl Read, target: &Path, done: &mut Unpacked) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    let mut first = reader.next_item()?;
    match Place::of(&first, target)? {
        Place::In { folder, path, name } => {
            if let Item::Folder(entry) | Item::File(entry) | Item::Link(entry, _) = &mut first {
                if entry.name.is_empty() {
                    entry.mode = fs::metadata(target).map_or(PLAIN, |old| old.permissions().mode());
                }
                entry.name = name;
            }
            let mut unpacker = Unpacker::new(folder, path, Manner::Copied, done);
            unpacker.item(first, &mut reader)?;
            unpacker.rest(&mut reader)
        }
        Place::Itself { folder } => {
            Unpacker::new(folder, target.to_owned(), Manner::Copied, done).rest(&mut reader)
        }
        Place::Device(mut device) => {
            let whole = copy(&mut reader, &mut device, target)?;
            done.count(whole);
            Ok(())
        }
    }
}

/// Unpacks what is in the nameless folder that `stream` is into `folder`, which is at `path`.
pub(crate) fn unpack_within(
    stream: impl Read,
    (folder, path): (OwnedFd, &Path),
    manner: Manner,
    done: &mut Unpacked,
) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    match reader.next_item()? {
        Item::Folder(entry) if entry.name.is_empty() => {
            Unpacker::new(folder, path.to_owned(), manner, done).rest(&mut reader)
        }
        _ => Err(StreamError::Malformed("it does not begin with a folder without a name").into()),
    }
}

/// Writes the file that `stream` holds to `out`.
///
/// # Errors
/// When it holds something else or ends early, or `out` cannot be written.
pub fn unpack_into(stream: impl Read, out: &mut impl Write) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    match reader.next_item()? {
        Item::File(_) => {}
        Item::Folder(_) => return Err(UnpackError::NotAFile("a folder")),
        _ => return Err(UnpackError::NotAFile("a symbolic link")),
    }
    let path = Path::new("standard output");
    if !copy(&mut reader, out, path)? {
        return Err(UnpackError::Broken);
    }
    out.flush().map_err(failed(path))
}

impl Unpacked {
    /// The end of a sentence about what went wrong: what had been made by then.
    pub fn so_far(self) -> String {
        match self.files {
            0 => String::new(),
            1 => "; one file was copied before".to_owned(),
            files => format!("; {files} files were copied before"),
        }
    }

    fn count(&mut self, whole: bool) {
        if whole {
            self.files += 1;
        } else {
            self.broken += 1;
        }
    }
}

/// Where the outermost thing goes.
enum Place {
    /// Into this folder, which is at `path`, under this name.
    In { folder: OwnedFd, path: PathBuf, name: Vec<u8> },
    /// It is this folder; only what is in it goes anywhere.
    Itself { folder: OwnedFd },
    /// Into this device or pipe, which stays what it is.
    Device(File),
}

impl Place {
    fn of(first: &Item, target: &Path) -> Result<Self, UnpackError> {
        let (name, is_folder) = match first {
            Item::Folder(entry) => (&entry.name, true),
            Item::File(entry) | Item::Link(entry, _) => (&entry.name, false),
            Item::Leave | Item::Remove(_) | Item::End => {
                return Err(StreamError::Malformed("it begins with an end").into());
            }
        };
        let last = target.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let in_a_folder = matches!(last, b"" | b"." | b"..") && !is_folder;
        match fs::metadata(target) {
            Ok(meta) if meta.is_dir() => match (name.as_slice(), is_folder) {
                ([], true) => Ok(Self::Itself { folder: open(target)? }),
                ([], false) => Err(UnpackError::NeedsName(target.to_owned())),
                (name, _) => {
                    Ok(Self::In { folder: open(target)?, path: target.to_owned(), name: name.to_vec() })
                }
            },
            Ok(_) if is_folder => Err(UnpackError::NotAFolder(target.to_owned())),
            Ok(meta) => match first {
                // A file that the user names by a link is where the link leads.
                Item::File(_) if meta.is_file() => {
                    Self::beside(&fs::canonicalize(target).map_err(failed(target))?)
                }
                Item::File(_) => {
                    Ok(Self::Device(OpenOptions::new().write(true).open(target).map_err(failed(target))?))
                }
                _ => Self::beside(target),
            },
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound if in_a_folder => Err(UnpackError::NoFolder(target.to_owned())),
                io::ErrorKind::NotADirectory if in_a_folder => {
                    Err(UnpackError::NotAFolder(target.to_owned()))
                }
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::beside(target),
                _ => Err(failed(target)(error)),
            },
        }
    }

    /// In the folder that `target` is in, under its name.
    fn beside(target: &Path) -> Result<Self, UnpackError> {
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let name = target.file_name().ok_or_else(|| UnpackError::NoFolder(folder.to_owned()))?;
        Ok(Self::In { folder: open(folder)?, path: folder.to_owned(), name: name.as_bytes().to_vec() })
    }
}

/// A folder that the user has named.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, UnpackError> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        match error {
            Errno::NOENT => UnpackError::NoFolder(path.to_owned()),
            Errno::NOTDIR => UnpackError::NotAFolder(path.to_owned()),
            _ => failed(path)(error.into()),
        }
    })
}

/// A folder that was entered, and, if it was made for that, what it is to be like when it is left.
struct Folder {
    fd: OwnedFd,
    made: Option<Entry>,
}

struct Unpacker<'a> {
    folders: Vec<Folder>,
    /// Of the innermost folder; for people.
    path: PathBuf,
    manner: Manner,
    done: &'a mut Unpacked,
}

impl<'a> Unpacker<'a> {
    fn new(folder: OwnedFd, path: PathBuf, manner: Manner, done: &'a mut Unpacked) -> Self {
        Self { folders: vec![Folder { fd: folder, made: None }], path, manner, done }
    }

    fn rest(mut self, reader: &mut Reader<impl Read>) -> Result<(), UnpackError> {
        loop {
            match reader.next_item()? {
                Item::End => return Ok(()),
                item => self.item(item, reader)?,
            }
        }
    }

    fn item(&mut self, item: Item, reader: &mut Reader<impl Read>) -> Result<(), UnpackError> {
        match item {
            Item::Folder(entry) => self.enter(entry),
            Item::Leave | Item::End => self.leave(),
            Item::File(entry) => self.file(&entry, reader),
            Item::Link(entry, target) => self.link(&entry, &target),
            Item::Remove(name) if self.manner == Manner::Changed => self.remove(&name),
            Item::Remove(_) => Err(StreamError::Malformed("a removal where nothing is changed").into()),
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<(), UnpackError> {
        let (folder, path) = (self.innermost()?, self.path_of(&entry));
        let made = match mkdirat(folder, &*entry.name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(&path)(error.into())),
        };
        // A folder that may not be listed can still be written into.
        let access = if made { OFlags::RDONLY } else { OFlags::PATH };
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(folder, &*entry.name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => UnpackError::NotAFolder(path.clone()),
            _ => failed(&path)(error.into()),
        })?;
        self.folders.push(Folder { fd, made: made.then_some(entry) });
        self.path = path;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), UnpackError> {
        let folder = self.folders.pop();
        if let Some(Folder { fd, made: Some(entry) }) = folder {
            dress(fd.as_fd(), &entry).map_err(failed(&self.path))?;
        }
        self.path.pop();
        Ok(())
    }

    fn file(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), UnpackError> {
        let (folder, path) = (self.innermost()?, self.path_of(entry));
        self.make_room(entry, &path)?;
        let make = |name: &[u8]| openat(folder, name, NEW, Mode::RUSR | Mode::WUSR);
        let (temporary, fd) = Temporary::make(folder, self.own_name(entry), make).map_err(failed(&path))?;
        let mut file = File::from(fd);
        let whole = copy(reader, &mut file, &path)?;
        if whole {
            dress(file.as_fd(), entry).map_err(failed(&path))?;
            temporary.rename(&entry.name).map_err(failed(&path))?;
        } else {
            drop(temporary);
        }
        self.done.count(whole);
        Ok(())
    }

    fn link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), UnpackError> {
        let (folder, path) = (self.innermost()?, self.path_of(entry));
        self.make_room(entry, &path)?;
        let make = |name: &[u8]| symlinkat(target, folder, name);
        let (temporary, ()) = Temporary::make(folder, self.own_name(entry), make).map_err(failed(&path))?;
        utimensat(folder, &*temporary.name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(&path)(error.into()))?;
        temporary.rename(&entry.name).map_err(failed(&path))?;
        self.done.files += 1;
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> Result<(), UnpackError> {
        let folder = self.innermost()?;
        let removed = match unlinkat(folder, name, AtFlags::empty()) {
            // What somebody else has put into it stays, and it with that.
            Err(Errno::ISDIR) => match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => Ok(()),
                removed => removed,
            },
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(&self.path.join(OsStr::from_bytes(name)))(error.into())),
        }
    }

    /// Makes sure that what is there may be replaced. Where nobody else is, making it says so itself.
    fn make_room(&self, entry: &Entry, path: &Path) -> Result<(), UnpackError> {
        match self.manner {
            Manner::Fresh => Ok(()),
            Manner::Copied | Manner::Changed => may_replace(self.innermost()?, entry, path),
        }
    }

    /// The name under which it is made, if that is its own: nobody sees a part of it where nobody looks.
    fn own_name<'e>(&self, entry: &'e Entry) -> Option<&'e [u8]> {
        (self.manner == Manner::Fresh).then_some(&*entry.name)
    }

    fn innermost(&self) -> Result<BorrowedFd<'_>, UnpackError> {
        let folder = self.folders.last().ok_or(StreamError::Malformed("more folders left than entered"))?;
        Ok(folder.fd.as_fd())
    }

    fn path_of(&self, entry: &Entry) -> PathBuf {
        self.path.join(OsStr::from_bytes(&entry.name))
    }
}

/// Only files and links make room for others.
fn may_replace(folder: BorrowedFd<'_>, entry: &Entry, path: &Path) -> Result<(), UnpackError> {
    let is = match statat(folder, &*entry.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) => match FileType::from_raw_mode(old.st_mode) {
            FileType::RegularFile | FileType::Symlink => return Ok(()),
            FileType::Directory => "a folder",
            _ => "a device, pipe or socket",
        },
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(path)(error.into())),
    };
    Err(UnpackError::NotReplaced { path: path.to_owned(), is })
}

/// Writes the rest of a file to `out`, which is at `path`; false when only a part of it came.
fn copy(reader: &mut Reader<impl Read>, out: &mut impl Write, path: &Path) -> Result<bool, UnpackError> {
    loop {
        match reader.next_part()? {
            Part::Bytes(bytes) => out.write_all(bytes).map_err(failed(path))?,
            Part::Whole => return Ok(true),
            Part::Broken => return Ok(false),
        }
    }
}

/// Gives a file or folder its permissions and time.
fn dress(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    fchmod(fd, Mode::from_raw_mode(entry.mode & KEPT))?;
    Ok(futimens(fd, &times(entry))?)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.seconds, tv_nsec: entry.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// What is there under a name of its own until it is whole, and removed if it never is.
struct Temporary<'a> {
    folder: BorrowedFd<'a>,
    name: Vec<u8>,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    /// Makes it under `own` name, or one that nobody else has.
    fn make<T>(
        folder: BorrowedFd<'a>,
        own: Option<&[u8]>,
        make: impl Fn(&[u8]) -> rustix::io::Result<T>,
    ) -> io::Result<(Self, T)> {
        if let Some(name) = own {
            let made = make(name)?;
            return Ok((Self { folder, name: name.to_vec(), renamed: false }, made));
        }
        let pid = std::process::id();
        // Others' leftovers may have some of these names; nobody has all.
        for number in 0..1000 {
            let name = format!(".banger-{pid}-{number}").into_bytes();
            match make(&name) {
                Ok(made) => return Ok((Self { folder, name, renamed: false }, made)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    fn rename(mut self, name: &[u8]) -> io::Result<()> {
        if self.name != name {
            renameat(self.folder, &*self.name, self.folder, name)?;
        }
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Why it is not wanted is told already.
            let _ = unlinkat(self.folder, &*self.name, AtFlags::empty());
        }
    }
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
