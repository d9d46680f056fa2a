//! The receiving end: creates a stream's entries in the target, and nowhere else.
//!
//! Files and links are created under a temporary name and then renamed, so the old file stays whole until the new one
//! is complete. An existing link is replaced, not written through.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, mkdirat, openat, renameat,
        statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use crate::{
    copy_request::CopyRequest,
    destination::{Destination, TargetLink},
    error::{UnpackError, failed},
    reserve::Reserve,
    stream::{Entry, Item, Part, Reader, StreamError},
};

/// How the entries of a stream are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnpackMode {
    /// Next to existing files, which they replace when complete.
    Copy,
    /// Like `Copy`, and the stream's removals are carried out.
    Update,
    /// In a directory that no other process sees yet.
    New,
}

/// Permission bits that are kept. Setuid and setgid are dropped, because the owner changes.
const MODE_MASK: u32 = 0o1777;

const NEW_FILE_FLAGS: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// Permissions of a file that arrives without any, as from a pipe.
const DEFAULT_MODE: u32 = 0o644;

/// The numbers of unpacked files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links created.
    pub files: u64,
    /// Files not created, because only a part of them arrived.
    pub broken: u64,
}

/// Unpacks `stream` from a trusted sender to `target`, as `cp -a` would.
///
/// If `target` is a directory, unpacks into it, under the name in the stream. Otherwise creates `target`, in an existing
/// directory. If it is a link to a file, writes to that file. `done` counts the files unpacked, also before an error.
///
/// # Errors
/// Returns an error if the stream is invalid or ends early, or if something cannot be created.
pub fn unpack(stream: impl Read, target: &Path, done: &mut Unpacked) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    let mut first = reader.next_item()?;
    let name = entry_of(&mut first).map(|entry| entry.name.clone()).unwrap_or_default();
    if let Item::File(entry) = &mut first
        && name.is_empty()
    {
        entry.mode = fs::metadata(target).map_or(DEFAULT_MODE, |old| old.permissions().mode());
    }
    let destination = Destination::find(&first, &name, target, TargetLink::Followed)?;
    unpack_at(destination, first, reader, target, None, done)
}

/// Unpacks `stream` from an untrusted sender, of whom `request` was requested, to `target`.
///
/// This is as `cp -a`, with three differences: the request names the copy, whatever the stream says; a link at `target`
/// is replaced, not followed, unless `target` ends in a slash; and a part of the file system stays free.
///
/// # Errors
/// Returns the errors of [`unpack`], `OtherKind` if something else arrives than requested, `LinkToDirectory` if
/// `target` is such a link, and `Reserved` if too little space is free.
pub fn unpack_requested(
    stream: impl Read,
    request: &CopyRequest,
    target: &Path,
    done: &mut Unpacked,
) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    let first = reader.next_item()?;
    request.check(&first)?;
    let destination = Destination::find(&first, request.name(), target, TargetLink::Replaced)?;
    let reserve = match &destination {
        Destination::Entry { dir, .. } | Destination::Directory { dir } => Reserve::on(dir),
        Destination::Device(device) => Reserve::on(device),
    };
    unpack_at(destination, first, reader, target, reserve.map_err(failed(target))?, done)
}

/// Unpacks `first` and the rest of the stream at `destination`, which was found for `target`.
fn unpack_at(
    destination: Destination,
    mut first: Item,
    mut reader: Reader<impl Read>,
    target: &Path,
    mut reserve: Option<Reserve>,
    done: &mut Unpacked,
) -> Result<(), UnpackError> {
    match destination {
        Destination::Entry { dir, path, name } => {
            if let Some(entry) = entry_of(&mut first) {
                entry.name = name;
            }
            let mut unpacker = Unpacker { reserve, ..Unpacker::new(dir, path, UnpackMode::Copy, done) };
            unpacker.item(first, &mut reader)?;
            unpacker.rest(&mut reader)
        }
        Destination::Directory { dir } => {
            let path = target.to_owned();
            Unpacker { reserve, ..Unpacker::new(dir, path, UnpackMode::Copy, done) }.rest(&mut reader)
        }
        Destination::Device(mut device) => {
            let complete = copy(&mut reader, &mut device, target, reserve.as_mut())?;
            done.count(complete);
            end(&mut reader)
        }
    }
}

fn entry_of(item: &mut Item) -> Option<&mut Entry> {
    match item {
        Item::Directory(entry) | Item::File(entry) | Item::Link(entry, _) => Some(entry),
        Item::Leave | Item::Remove(_) | Item::End => None,
    }
}

/// Reads the end of a stream.
fn end(reader: &mut Reader<impl Read>) -> Result<(), UnpackError> {
    match reader.next_item()? {
        Item::End => Ok(()),
        _ => Err(StreamError::Malformed("more than one top-level item").into()),
    }
}

/// Unpacks the content of the stream's unnamed directory into `dir`, which is at `path`.
pub(crate) fn unpack_within(
    stream: impl Read,
    (dir, path): (OwnedFd, &Path),
    mode: UnpackMode,
    done: &mut Unpacked,
) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    match reader.next_item()? {
        Item::Directory(entry) if entry.name.is_empty() => {
            Unpacker::new(dir, path.to_owned(), mode, done).rest(&mut reader)
        }
        _ => Err(StreamError::Malformed("the first item is not an unnamed directory").into()),
    }
}

/// Writes the file in `stream` from an untrusted sender to `out`.
///
/// # Errors
/// Returns an error if the stream holds something else or ends early, or if `out` cannot be written; `Reserved` if
/// `out` is a file and too little space is free.
pub fn unpack_into(stream: impl Read, out: &mut File) -> Result<(), UnpackError> {
    let mut reader = Reader::new(stream)?;
    match reader.next_item()? {
        Item::File(_) => {}
        Item::Directory(_) => return Err(UnpackError::NotAFile("a directory")),
        _ => return Err(UnpackError::NotAFile("a symbolic link")),
    }
    let path = Path::new("standard output");
    let mut reserve = Reserve::on(&*out).map_err(failed(path))?;
    if !copy(&mut reader, out, path, reserve.as_mut())? {
        return Err(UnpackError::Broken);
    }
    end(&mut reader)
}

impl Unpacked {
    /// Returns a message suffix with the number of files copied before an error.
    pub fn so_far(self) -> String {
        match self.files {
            0 => String::new(),
            1 => "; one file was copied before".to_owned(),
            files => format!("; {files} files were copied before"),
        }
    }

    fn count(&mut self, complete: bool) {
        if complete {
            self.files += 1;
        } else {
            self.broken += 1;
        }
    }
}

/// An entered directory. If it was created, `created` holds the attributes to set when it is left.
struct OpenDir {
    fd: OwnedFd,
    created: Option<Entry>,
}

struct Unpacker<'a> {
    dirs: Vec<OpenDir>,
    /// Path of the innermost directory, for messages.
    path: PathBuf,
    mode: UnpackMode,
    /// Space to leave free, if the sender is not trusted.
    reserve: Option<Reserve>,
    done: &'a mut Unpacked,
}

impl<'a> Unpacker<'a> {
    fn new(dir: OwnedFd, path: PathBuf, mode: UnpackMode, done: &'a mut Unpacked) -> Self {
        Self { dirs: vec![OpenDir { fd: dir, created: None }], path, mode, reserve: None, done }
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
        if let Some(reserve) = &mut self.reserve {
            reserve.spend_entry(&self.path)?;
        }
        match item {
            Item::Directory(entry) => self.enter(entry),
            Item::Leave | Item::End => self.leave(),
            Item::File(entry) => self.file(&entry, reader),
            Item::Link(entry, target) => self.link(&entry, &target),
            Item::Remove(name) if self.mode == UnpackMode::Update => self.remove(&name),
            Item::Remove(_) => Err(StreamError::Malformed("unexpected removal").into()),
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<(), UnpackError> {
        let (dir, path) = (current_dir(&self.dirs)?, self.path_of(&entry));
        let created = match mkdirat(dir, &*entry.name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(&path)(error.into())),
        };
        // An existing directory that may not be listed may still be writable.
        let access = if created { OFlags::RDONLY } else { OFlags::PATH };
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, &*entry.name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => UnpackError::NotADirectory(path.clone()),
            _ => failed(&path)(error.into()),
        })?;
        self.dirs.push(OpenDir { fd, created: created.then_some(entry) });
        self.path = path;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), UnpackError> {
        let dir = self.dirs.pop();
        if let Some(OpenDir { fd, created: Some(entry) }) = dir {
            set_attributes(fd.as_fd(), &entry).map_err(failed(&self.path))?;
        }
        self.path.pop();
        Ok(())
    }

    fn file(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), UnpackError> {
        let (dir, path) = (current_dir(&self.dirs)?, self.path_of(entry));
        self.check_replaceable(entry, &path)?;
        let create = |name: &[u8]| openat(dir, name, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR);
        let (temporary, fd) =
            Temporary::create(dir, self.final_name(entry), create).map_err(failed(&path))?;
        let mut file = File::from(fd);
        let complete = copy(reader, &mut file, &path, self.reserve.as_mut())?;
        if complete {
            set_attributes(file.as_fd(), entry).map_err(failed(&path))?;
            temporary.rename(&entry.name).map_err(failed(&path))?;
        } else {
            drop(temporary);
        }
        self.done.count(complete);
        Ok(())
    }

    fn link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), UnpackError> {
        let (dir, path) = (current_dir(&self.dirs)?, self.path_of(entry));
        self.check_replaceable(entry, &path)?;
        let create = |name: &[u8]| symlinkat(target, dir, name);
        let (temporary, ()) =
            Temporary::create(dir, self.final_name(entry), create).map_err(failed(&path))?;
        utimensat(dir, &*temporary.name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(&path)(error.into()))?;
        temporary.rename(&entry.name).map_err(failed(&path))?;
        self.done.files += 1;
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> Result<(), UnpackError> {
        let dir = current_dir(&self.dirs)?;
        let removed = match unlinkat(dir, name, AtFlags::empty()) {
            // Keep a directory that still has other files in it.
            Err(Errno::ISDIR) => match unlinkat(dir, name, AtFlags::REMOVEDIR) {
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

    /// Checks that an existing file may be replaced. In a fresh directory, creating the file fails if it exists.
    fn check_replaceable(&self, entry: &Entry, path: &Path) -> Result<(), UnpackError> {
        match self.mode {
            UnpackMode::New => Ok(()),
            UnpackMode::Copy | UnpackMode::Update => may_replace(current_dir(&self.dirs)?, entry, path),
        }
    }

    /// Returns the final name if the file can be created under it: no other process sees it yet.
    fn final_name<'e>(&self, entry: &'e Entry) -> Option<&'e [u8]> {
        (self.mode == UnpackMode::New).then_some(&*entry.name)
    }

    fn path_of(&self, entry: &Entry) -> PathBuf {
        self.path.join(OsStr::from_bytes(&entry.name))
    }
}

fn current_dir(dirs: &[OpenDir]) -> Result<BorrowedFd<'_>, UnpackError> {
    let dir = dirs.last().ok_or(StreamError::Malformed("unbalanced end of a directory"))?;
    Ok(dir.fd.as_fd())
}

/// Checks that only a file or a link is replaced.
fn may_replace(dir: BorrowedFd<'_>, entry: &Entry, path: &Path) -> Result<(), UnpackError> {
    let kind = match statat(dir, &*entry.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) => match FileType::from_raw_mode(old.st_mode) {
            FileType::RegularFile | FileType::Symlink => return Ok(()),
            FileType::Directory => "a directory",
            _ => "a device, pipe or socket",
        },
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(path)(error.into())),
    };
    Err(UnpackError::NotReplaced { path: path.to_owned(), kind })
}

/// Writes the rest of a file to `out`, which is at `path`. Returns false if only a part of it arrived.
fn copy(
    reader: &mut Reader<impl Read>,
    out: &mut impl Write,
    path: &Path,
    mut reserve: Option<&mut Reserve>,
) -> Result<bool, UnpackError> {
    loop {
        match reader.next_part()? {
            Part::Bytes(bytes) => {
                if let Some(reserve) = &mut reserve {
                    reserve.spend(bytes.len() as u64, path)?;
                }
                out.write_all(bytes).map_err(failed(path))?;
            }
            Part::Complete => return Ok(true),
            Part::Broken => return Ok(false),
        }
    }
}

/// Sets a file's or directory's permissions and time.
fn set_attributes(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    fchmod(fd, Mode::from_raw_mode(entry.mode & MODE_MASK))?;
    Ok(futimens(fd, &times(entry))?)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.seconds, tv_nsec: entry.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A file under a temporary name until it is complete. It is removed if it never is.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: Vec<u8>,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    /// Creates it under the name `final_name`, or under an unused temporary name.
    fn create<T>(
        dir: BorrowedFd<'a>,
        final_name: Option<&[u8]>,
        create: impl Fn(&[u8]) -> rustix::io::Result<T>,
    ) -> io::Result<(Self, T)> {
        if let Some(name) = final_name {
            let created = create(name)?;
            return Ok((Self { dir, name: name.to_vec(), renamed: false }, created));
        }
        let pid = std::process::id();
        // Leftovers of other processes may have some of these names, but not all.
        for number in 0..1000 {
            let name = format!(".banger-{pid}-{number}").into_bytes();
            match create(&name) {
                Ok(created) => return Ok((Self { dir, name, renamed: false }, created)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    fn rename(mut self, name: &[u8]) -> io::Result<()> {
        if self.name != name {
            renameat(self.dir, &*self.name, self.dir, name)?;
        }
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // The caller already reports the failure.
            let _ = unlinkat(self.dir, &*self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
