//! Errors of images, kernels and initrds, by operation and object.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_api::Digest;

use super::archive::ArchiveError;
use super::bundle::BundleError;
use super::catalog::CatalogError;
use super::disk::DiskProblem;
use super::failure::FailureKind;
use super::kernel::{KernelError, ModuleError};
use super::manifest::ManifestError;
use super::package::PackageError;
use super::registry::RegistryError;

/// Maximum length of a program's output in a message, in bytes: the whole message must not be cut at its end.
const MAX_TAIL: usize = 2 << 10;

/// Reason why banger cannot create an image, kernel or initrd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// An operation of the operating system failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// A verb, such as "read" or "create".
        operation: &'static str,
        /// Path of the operation's object.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The disk is full, or would be.
    #[error("not enough space in {}: {needed} bytes needed, {available} available", dir.display())]
    NoSpace {
        /// Directory on the file system that is too small.
        dir: PathBuf,
        /// Bytes to write there; a lower bound if the input's length is unknown.
        needed: u64,
        /// Bytes available there to an ordinary user.
        available: u64,
    },
    /// The caller cancelled the operation.
    #[error("cancelled")]
    Cancelled,
    /// The input has an unsupported compression.
    #[error("{what} is compressed with {compression}; supported are gzip, zstd and xz")]
    Compression {
        /// The input.
        what: String,
        /// The compression found.
        compression: &'static str,
    },
    /// A root file system tar was refused.
    #[error("the root file system archive was refused")]
    Archive(#[source] ArchiveError),
    /// A bundle was refused.
    #[error("the bundle was refused")]
    Bundle(#[source] BundleError),
    /// An image's archive was refused.
    #[error("the image's archive was refused")]
    ImageArchive(#[source] ManifestError),
    /// Content has another digest than expected.
    #[error("{what} has the digest {found}; expected {expected}")]
    Digest {
        /// Name of the content.
        what: &'static str,
        /// The expected digest.
        expected: Digest,
        /// The actual digest.
        found: Digest,
    },
    /// A package was refused.
    #[error("the package is not usable")]
    Package(#[source] PackageError),
    /// A kernel was refused.
    #[error("the kernel is not usable")]
    Kernel(#[source] KernelError),
    /// A kernel's modules were refused.
    #[error("the kernel's modules cannot be used")]
    Modules(#[source] ModuleError),
    /// A kernel archive was refused.
    #[error("the kernel archive was refused")]
    KernelArchive(#[source] ArchiveError),
    /// The input contains no kernel.
    #[error("no kernel found: neither /boot/vmlinuz-* nor /lib/modules/RELEASE/vmlinuz")]
    NoKernel,
    /// The input contains several kernels.
    #[error("more than one kernel found: also {entry:?}")]
    ManyKernels {
        /// The second kernel.
        entry: String,
    },
    /// The input contains modules for several kernels.
    #[error("modules found for both Linux {first} and Linux {second}")]
    ManyReleases {
        /// Release of the first modules.
        first: String,
        /// Release of the others.
        second: String,
    },
    /// A file of a kernel was refused.
    #[error("the kernel's files: {entry:?} {problem}")]
    KernelEntry {
        /// The entry.
        entry: String,
        /// The problem.
        problem: &'static str,
    },
    /// A program cannot be the agent in an initrd.
    #[error("{} cannot be the agent in a boot initrd: {reason}", path.display())]
    Agent {
        /// Path of the program.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// The destination directory already contains a kernel.
    #[error("{} already contains a kernel", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The content does not fit into the requested file system.
    #[error("a file system of {size} bytes is too small: the content needs at least {needed} bytes")]
    TooSmall {
        /// Requested size, in bytes.
        size: u64,
        /// Smallest size known to be needed, in bytes.
        needed: u64,
    },
    /// A disk or image was refused.
    #[error("the file system in {} is not usable", path.display())]
    Disk {
        /// Path of the disk or image.
        path: PathBuf,
        /// The reason.
        source: DiskProblem,
    },
    /// The size or label of a file system is out of range.
    #[error("cannot create a file system of {size} bytes with label {label:?}: {reason}")]
    Geometry {
        /// Requested size, in bytes.
        size: u64,
        /// Requested label.
        label: String,
        /// The problem.
        reason: &'static str,
    },
    /// The ext4 writer failed.
    #[error("cannot write the ext4 file system {}", path.display())]
    Ext4 {
        /// The file being written.
        path: PathBuf,
        /// The writer's error.
        source: mkext4::Error,
    },
    /// A required program is not installed.
    #[error("the program {program} is not installed")]
    MissingProgram {
        /// The program.
        program: &'static str,
    },
    /// This user has no ranges of subordinate ids; a user namespace with many users needs them.
    #[error("/etc/subuid and /etc/subgid have no ids for this user")]
    NoSubordinateIds,
    /// A program on this host failed.
    #[error("{program} failed ({status}){}", tail(output))]
    Program {
        /// The program.
        program: &'static str,
        /// Exit status or signal.
        status: String,
        /// The last lines of its standard error.
        output: Vec<String>,
    },
    /// A program on this host timed out and was stopped.
    #[error("{program} timed out after {} minutes{}", limit.as_secs() / 60, tail(output))]
    ProgramTimeout {
        /// The program.
        program: &'static str,
        /// The timeout.
        limit: Duration,
        /// The last lines of its standard error.
        output: Vec<String>,
    },
    /// A pull from a registry failed.
    #[error("cannot pull {reference}")]
    Registry {
        /// The image's reference.
        reference: String,
        /// The reason.
        source: Box<RegistryError>,
    },
    /// A URL was refused.
    #[error("cannot download {url}: {problem}")]
    Url {
        /// The URL, or the text that is not a URL.
        url: String,
        /// The problem.
        problem: &'static str,
    },
    /// A download failed.
    #[error("cannot download {url}")]
    Download {
        /// The URL.
        url: String,
        /// The reason.
        source: Box<RegistryError>,
    },
    /// A catalog's signature is missing or invalid.
    #[error("the catalog {url} must be signed with the key {key}: {problem}")]
    Unsigned {
        /// URL of the catalog.
        url: String,
        /// Public key that must have signed it.
        key: String,
        /// The problem.
        problem: String,
    },
    /// A catalog is invalid.
    #[error("cannot use the catalog {url}")]
    Catalog {
        /// URL of the catalog.
        url: String,
        /// The problem.
        source: CatalogError,
    },
    /// A Debian package is not available.
    #[error("package {package}: {problem}")]
    Apt {
        /// The package.
        package: String,
        /// The problem.
        problem: &'static str,
    },
}

impl ImageError {
    /// Returns the kind of failure.
    pub fn kind(&self) -> FailureKind {
        let mut source: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = source {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    return FailureKind::NoSpace;
                }
                Some(io::ErrorKind::TimedOut) => return FailureKind::Timeout,
                _ => source = error.source(),
            }
        }
        match self {
            ImageError::Cancelled => FailureKind::Cancelled,
            ImageError::NoSpace { .. } => FailureKind::NoSpace,
            ImageError::MissingProgram { .. } => FailureKind::MissingProgram,
            ImageError::NoSubordinateIds => FailureKind::NotPermitted,
            ImageError::ProgramTimeout { .. } => FailureKind::Timeout,
            ImageError::Registry { source, .. } | ImageError::Download { source, .. } => source.kind(),
            ImageError::Io { .. }
            | ImageError::Ext4 { .. }
            | ImageError::Program { .. }
            | ImageError::Apt { .. } => FailureKind::Io,
            _ => FailureKind::Invalid,
        }
    }
}

/// Formats a program's last lines for the end of a message.
fn tail(output: &[String]) -> String {
    let mut length = 0;
    let fits = |line: &&String| {
        length += line.len();
        length <= MAX_TAIL
    };
    let first = output.len() - output.iter().rev().take_while(fits).count();
    match output.get(first..) {
        Some(lines @ [_, ..]) => format!(": {}", lines.join("; ")),
        _ => String::new(),
    }
}

/// Attaches an operation and a path to an I/O error.
pub(crate) trait IoContext<T> {
    /// Adds the context "cannot {operation} {path}"; `operation` is a verb.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_source_determines_the_kind() {
        let read = |kind: io::ErrorKind| ImageError::Archive(ArchiveError::Read(kind.into())).kind();
        assert_eq!(read(io::ErrorKind::StorageFull), FailureKind::NoSpace);
        assert_eq!(read(io::ErrorKind::TimedOut), FailureKind::Timeout);
        assert_eq!(read(io::ErrorKind::InvalidData), FailureKind::Invalid);
        assert_eq!(ImageError::Cancelled.kind(), FailureKind::Cancelled);
        let full = mkext4::Error::Io(io::ErrorKind::StorageFull.into());
        assert_eq!(ImageError::Ext4 { path: "x".into(), source: full }.kind(), FailureKind::NoSpace);
    }
}
