//! What can go wrong in this crate, by operation and object.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;
use crate::kernel::{KernelError, ModuleError};

/// Why an image, kernel or initrd could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system refused something.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// Verb, as in "read" or "create".
        operation: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The disk is full, or would become so.
    #[error("not enough space in {}: {needed} bytes needed, {available} available", folder.display())]
    NoSpace {
        /// The folder whose file system is too small.
        folder: PathBuf,
        /// Bytes that were going to be written there; a lower bound when the input's length is unknown.
        needed: u64,
        /// Bytes an ordinary user could still write there.
        available: u64,
    },
    /// The caller no longer wants the result.
    #[error("cancelled")]
    Cancelled,
    /// The input is packed in a way that is not read here.
    #[error("{what} is compressed with {compression}; gzip, zstd and xz can be read")]
    Compression {
        /// The input.
        what: String,
        /// The compression found.
        compression: &'static str,
    },
    /// A root file system tar was refused.
    #[error("the root file system archive was refused")]
    Archive(#[source] ArchiveError),
    /// A package was refused.
    #[error("{} is not a usable package", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// Why.
        source: PackageError,
    },
    /// A kernel was refused.
    #[error("{} is not a usable kernel", path.display())]
    Kernel {
        /// The file it came from.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// A kernel's modules can't be used.
    #[error("the modules in {} cannot be used", path.display())]
    Modules {
        /// The folder they are in.
        path: PathBuf,
        /// Why.
        source: ModuleError,
    },
    /// The agent does not fit into an initrd.
    #[error("{} cannot be the agent in a boot initrd: {reason}", path.display())]
    Agent {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The folder for the result already has something in it.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The file system asked for does not hold the content.
    #[error("a file system of {size} bytes is too small: the content needs at least {needed} bytes")]
    TooSmall {
        /// Size asked for, in bytes.
        size: u64,
        /// Smallest size known to be needed, in bytes.
        needed: u64,
    },
    /// The size or label of a file system is out of range.
    #[error("a file system of {size} bytes with label {label:?} cannot be made: {reason}")]
    Geometry {
        /// Size asked for, in bytes.
        size: u64,
        /// Label asked for.
        label: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The ext4 writer gave up.
    #[error("cannot write the ext4 file system {}", path.display())]
    Ext4 {
        /// The file being written.
        path: PathBuf,
        /// The writer's reason.
        source: mkext4::Error,
    },
    /// A package archive does not have what the catalog names.
    #[error("package {package}: {problem}")]
    Apt {
        /// The package.
        package: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Why a Debian package was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// No `!<arch>` at its start, or a broken member header.
    #[error("not a Debian package")]
    NotDeb,
    /// It ends early.
    #[error("the package is truncated")]
    Truncated,
    /// It has no `data.tar` member.
    #[error("no data.tar in it")]
    NoData,
    /// It has no kernel in `/boot`.
    #[error("no /boot/vmlinuz-* in it: not a kernel image package")]
    NoKernel,
    /// More than one kernel in `/boot`.
    #[error("more than one kernel in /boot")]
    ManyKernels,
    /// Something in it is beyond a limit.
    #[error("{what} is over the limit of {limit} bytes or entries")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Its `data.tar` is not a sound archive.
    #[error("its data.tar was refused")]
    Archive(#[source] ArchiveError),
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

/// Attaches an operation and a path to an I/O error.
pub(crate) trait IoContext<T> {
    /// `operation` is a verb: "cannot {operation} {path}".
    fn during(self, operation: &'static str, path: &Path) -> Result<T, ImageError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io { operation, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, ImageError> {
        self.map_err(|errno| ImageError::Io { operation, path: path.to_owned(), source: errno.into() })
    }
}
