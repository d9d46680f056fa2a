//! Errors of kernels and their modules.

use std::io;
use std::path::PathBuf;

/// Reason for rejecting a kernel that a VM cannot boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is not an ELF file, a bzImage or a package.
    #[error("not a vmlinux (ELF), a vmlinuz (bzImage), a Debian package or an RPM")]
    NotKernel,
    /// A bzImage has a boot protocol without the payload's position.
    #[error("its boot protocol {}.{:02} is older than 2.08 (Linux 2.6.26)", version >> 8, version & 0xff)]
    OldProtocol {
        /// Version field of the setup header.
        version: u16,
    },
    /// A header points beyond the end of the file.
    #[error("the {0} lies outside the file: it is truncated or damaged")]
    OutOfBounds(&'static str),
    /// The payload has an unsupported compression.
    #[error("its payload is compressed with {0}; supported are gzip, xz, zstd and lz4")]
    Compression(&'static str),
    /// The payload's format is unknown.
    #[error("its payload is in an unknown format (starts with {start:02x?})")]
    UnknownPayload {
        /// First bytes of the payload.
        start: Vec<u8>,
    },
    /// The payload cannot be decompressed.
    #[error("its {format} payload is damaged")]
    Damaged {
        /// The compression.
        format: &'static str,
        /// The decoder's error.
        source: io::Error,
    },
    /// The kernel is larger than any real one.
    #[error("it is larger than {limit} bytes when decompressed")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The ELF file is not an x86-64 kernel.
    #[error("not an x86-64 kernel: {0}")]
    Elf(&'static str),
    /// The kernel has no "Linux version" banner.
    #[error("not a Linux kernel: it has no Linux version banner")]
    NoRelease,
    /// The kernel lacks a feature that every VM needs, built in or as a module.
    #[error("it has no {what}, built in or as a module; it needs {option}=y or =m")]
    Missing {
        /// Name of the feature.
        what: &'static str,
        /// The kernel's build option.
        option: &'static str,
    },
}

/// Reason for rejecting a directory of modules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// Reading the directory or a file failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The directory has more files, levels or bytes than any kernel's modules.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// The unit counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A module is not an ELF file with module information.
    #[error("{} is not a kernel module: {reason}", path.display())]
    NotModule {
        /// The module's file.
        path: PathBuf,
        /// The problem.
        reason: &'static str,
    },
    /// The modules were built for another kernel.
    #[error("they are for Linux {modules}, the kernel is {kernel}")]
    Mismatch {
        /// Release that the modules were built for.
        modules: String,
        /// Release of the kernel.
        kernel: String,
    },
    /// A module's dependency is missing.
    #[error("module {module} needs {dependency}, which is neither present nor built in")]
    Dependency {
        /// The module.
        module: String,
        /// The missing module.
        dependency: String,
    },
    /// Modules depend on each other.
    #[error("module {module} depends on itself")]
    DependencyCycle {
        /// One of the modules.
        module: String,
    },
}
