//! Why an image, kernel or initrd could not be made, by operation and object.

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
    /// A bundle was refused.
    #[error("the bundle was refused")]
    Bundle(#[source] BundleError),
    /// An image's archive was refused.
    #[error("the image's archive was refused")]
    ImageArchive(#[source] ManifestError),
    /// Some bytes are not those that were asked for.
    #[error("{what} has the digest {found}, and not {expected}")]
    Digest {
        /// What they are.
        what: &'static str,
        /// The digest that was asked for.
        expected: Digest,
        /// Theirs.
        found: Digest,
    },
    /// A package was refused.
    #[error("the package is not usable")]
    Package(#[source] PackageError),
    /// A kernel was refused.
    #[error("the kernel is not usable")]
    Kernel(#[source] KernelError),
    /// A kernel's modules can't be used.
    #[error("the kernel's modules cannot be used")]
    Modules(#[source] ModuleError),
    /// A kernel tar was refused.
    #[error("the kernel archive was refused")]
    KernelArchive(#[source] ArchiveError),
    /// There is no kernel in it.
    #[error("there is no kernel in it: no /boot/vmlinuz-*, and no /lib/modules/RELEASE/vmlinuz")]
    NoKernel,
    /// There are several kernels in it.
    #[error("there is more than one kernel in it: also {entry:?}")]
    ManyKernels {
        /// The second.
        entry: String,
    },
    /// There are modules for several kernels in it.
    #[error("there are modules for Linux {first} and for {second} in it")]
    ManyReleases {
        /// Those that came first.
        first: String,
        /// The others.
        second: String,
    },
    /// A file that a kernel is made of cannot be used.
    #[error("the kernel's files: {entry:?} {problem}")]
    KernelEntry {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The agent does not fit into an initrd.
    #[error("{} cannot be the agent in a boot initrd: {reason}", path.display())]
    Agent {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The folder for the result already has a kernel in it.
    #[error("{} already has a kernel in it", path.display())]
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
    /// A disk or image was refused.
    #[error("the file system in {} is not usable", path.display())]
    Disk {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: DiskProblem,
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
    /// A program that this needs is not installed.
    #[error("the program {program} is not installed")]
    MissingProgram {
        /// The program.
        program: &'static str,
    },
    /// This user has no ranges of subordinate ids, which a user namespace with many users needs.
    #[error("/etc/subuid and /etc/subgid have no ids for this user")]
    NoSubordinateIds,
    /// A program on this host failed.
    #[error("{program} failed ({status}){}", tail(output))]
    Program {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines it printed to its standard error.
        output: Vec<String>,
    },
    /// A program on this host was stopped because it took too long.
    #[error("{program} was stopped after {} minutes{}", limit.as_secs() / 60, tail(output))]
    ProgramTimeout {
        /// The program.
        program: &'static str,
        /// The time it had.
        limit: Duration,
        /// The last lines it printed to its standard error.
        output: Vec<String>,
    },
    /// An image could not be had from its registry.
    #[error("cannot pull {reference}")]
    Registry {
        /// The image.
        reference: String,
        /// Why not.
        source: Box<RegistryError>,
    },
    /// A URL was refused.
    #[error("cannot download {url}: {problem}")]
    Url {
        /// The URL, as far as it is one.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file could not be downloaded.
    #[error("cannot download {url}")]
    Download {
        /// Where it is.
        url: String,
        /// Why not.
        source: Box<RegistryError>,
    },
    /// A catalog is not signed as it has to be.
    #[error("the catalog {url} has to be signed with the key {key}: {problem}")]
    Unsigned {
        /// Where it is.
        url: String,
        /// Whose signature it has to have.
        key: String,
        /// What it has instead.
        problem: String,
    },
    /// A catalog is none.
    #[error("cannot use the catalog {url}")]
    Catalog {
        /// Where it is.
        url: String,
        /// What is wrong with it.
        source: CatalogError,
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

impl ImageError {
    /// What kind of failure this is.
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

/// A program's last lines, for the end of a message.
fn tail(output: &[String]) -> String {
    if output.is_empty() { String::new() } else { format!(": {}", output.join("\n")) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_decide() {
        let read = |kind: io::ErrorKind| ImageError::Archive(ArchiveError::Read(kind.into())).kind();
        assert_eq!(read(io::ErrorKind::StorageFull), FailureKind::NoSpace);
        assert_eq!(read(io::ErrorKind::TimedOut), FailureKind::Timeout);
        assert_eq!(read(io::ErrorKind::InvalidData), FailureKind::Invalid);
        assert_eq!(ImageError::Cancelled.kind(), FailureKind::Cancelled);
        let full = mkext4::Error::Io(io::ErrorKind::StorageFull.into());
        assert_eq!(ImageError::Ext4 { path: "x".into(), source: full }.kind(), FailureKind::NoSpace);
    }
}
