//! The place of a stream's top-level item. The user has named it, and the kind of the item decides what it means.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat},
    io::Errno,
};

use crate::{
    error::{UnpackError, failed},
    stream::{Item, StreamError},
};

/// The destination of the top-level item.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Under this name in this directory, which is at `path`.
    Entry { dir: OwnedFd, path: PathBuf, name: Vec<u8> },
    /// This directory itself: only the content is unpacked.
    Directory { dir: OwnedFd },
    /// This device or pipe, which is written to and kept.
    Device(File),
}

/// Whether a symbolic link at the target is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetLink {
    /// As `cp` does.
    Followed,
    /// A link may have come from the sender, so it is replaced, and the user must end the path of a link to a directory
    /// with a slash.
    Replaced,
}

impl Destination {
    /// Finds the destination of `first` at `target`, under `name` if that is a directory.
    pub(crate) fn find(
        first: &Item,
        name: &[u8],
        target: &Path,
        link: TargetLink,
    ) -> Result<Self, UnpackError> {
        let is_dir = match first {
            Item::Directory(_) => true,
            Item::File(_) | Item::Link(..) => false,
            Item::Leave | Item::Remove(_) | Item::End => {
                return Err(StreamError::Malformed("the first item is not a file, link or directory").into());
            }
        };
        let last = target.as_os_str().as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let names_dir = matches!(last, b"" | b"." | b"..");
        let follow = names_dir || link == TargetLink::Followed;
        let meta = if follow { fs::metadata(target) } else { fs::symlink_metadata(target) };
        match meta {
            Ok(meta) if meta.is_symlink() => Self::replacing_link(first, target),
            Ok(meta) if meta.is_dir() => match name {
                [] if is_dir => Ok(Self::Directory { dir: open_dir(target, follow)? }),
                [] => Err(UnpackError::NeedsName(target.to_owned())),
                name => Ok(Self::Entry {
                    dir: open_dir(target, follow)?,
                    path: target.to_owned(),
                    name: name.to_vec(),
                }),
            },
            Ok(_) if is_dir => Err(UnpackError::NotADirectory(target.to_owned())),
            Ok(meta) => match first {
                Item::File(_) if meta.is_file() && follow => {
                    Self::entry_at(&fs::canonicalize(target).map_err(failed(target))?)
                }
                Item::File(_) if !meta.is_file() => Self::device(target, follow),
                _ => Self::entry_at(target),
            },
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound if names_dir && !is_dir => {
                    Err(UnpackError::NoDirectory(target.to_owned()))
                }
                io::ErrorKind::NotADirectory if names_dir => {
                    Err(UnpackError::NotADirectory(target.to_owned()))
                }
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::entry_at(target),
                _ => Err(failed(target)(error)),
            },
        }
    }

    /// Returns the destination for a target that is a link: the link itself, except for links of the kernel.
    fn replacing_link(first: &Item, target: &Path) -> Result<Self, UnpackError> {
        if fs::metadata(target).is_ok_and(|meta| meta.is_dir()) {
            return Err(UnpackError::LinkToDirectory(target.to_owned()));
        }
        match first {
            Item::Directory(_) => Err(UnpackError::NotADirectory(target.to_owned())),
            Item::File(_) if is_descriptor(target)? => Self::device(target, true),
            _ => Self::entry_at(target),
        }
    }

    fn device(target: &Path, follow: bool) -> Result<Self, UnpackError> {
        let mut options = OpenOptions::new();
        options.write(true);
        if !follow {
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        }
        let file = options.open(target).map_err(failed(target))?;
        Ok(Self::Device(file))
    }

    /// Returns the place of `target` in its parent directory.
    fn entry_at(target: &Path) -> Result<Self, UnpackError> {
        let dir = parent(target);
        let name = target.file_name().ok_or_else(|| UnpackError::NoDirectory(dir.to_owned()))?;
        Ok(Self::Entry { dir: open(dir)?, path: dir.to_owned(), name: name.as_bytes().to_vec() })
    }
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns whether the link at `target` is one of the kernel's links to open files, such as `/dev/stdout` and
/// `/dev/fd/63`, which a shell passes for `>(command)`.
fn is_descriptor(target: &Path) -> Result<bool, UnpackError> {
    let dir = parent(target);
    let dir_fd = open(dir)?;
    let stat = fstatfs(dir_fd.as_fd()).map_err(|error| failed(target)(error.into()))?;
    Ok(stat.f_type == PROC_SUPER_MAGIC || dir == Path::new("/dev"))
}

/// Opens a directory that the user has named.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, UnpackError> {
    open_dir(path, true)
}

fn open_dir(path: &Path, follow: bool) -> Result<OwnedFd, UnpackError> {
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !follow);
    openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => UnpackError::NoDirectory(path.to_owned()),
        Errno::NOTDIR => UnpackError::NotADirectory(path.to_owned()),
        _ => failed(path)(error.into()),
    })
}
