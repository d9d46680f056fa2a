//! Why a kernel or its modules were refused.

use std::io;
use std::path::PathBuf;

/// Why bytes are not a kernel that a VM can boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A file of 0 bytes.
    #[error("the file is empty")]
    Empty,
    /// Neither an ELF nor a bzImage, and no package.
    #[error("neither a vmlinux (ELF) nor a vmlinuz (bzImage), and neither a Debian package nor an RPM")]
    NotKernel,
    /// A bzImage of a boot protocol that does not tell where its payload is.
    #[error("its boot protocol {}.{:02} is older than 2.08 (Linux 2.6.26)", version >> 8, version & 0xff)]
    OldProtocol {
        /// Version field of the setup header.
        version: u16,
    },
    /// A header points beyond the end.
    #[error("the {0} lies outside the file: truncated or damaged")]
    OutOfBounds(&'static str),
    /// A compression that is not read here.
    #[error("its payload is compressed with {0}; gzip, xz, zstd and lz4 can be read")]
    Compression(&'static str),
    /// A payload that starts like nothing known.
    #[error("its payload is in an unknown format (starts with {start:02x?})")]
    UnknownPayload {
        /// First bytes of the payload.
        start: Vec<u8>,
    },
    /// A payload that does not unpack.
    #[error("its {format} payload is damaged")]
    Damaged {
        /// The compression.
        format: &'static str,
        /// What the decoder said.
        source: io::Error,
    },
    /// More bytes than any kernel has.
    #[error("it is larger than {limit} bytes unpacked")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// An ELF file that is no x86-64 kernel.
    #[error("not an x86-64 kernel: {0}")]
    Elf(&'static str),
    /// No "Linux version" banner in it.
    #[error("no Linux version banner in it: not a Linux kernel")]
    NoRelease,
    /// Something that every VM needs is neither built in nor there as a module.
    #[error("it has no {what}, built in or as a module; it needs {option}=y or =m")]
    Missing {
        /// What is missing, in words.
        what: &'static str,
        /// The kernel's build option.
        option: &'static str,
    },
}

/// Why a folder of modules can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// More files, levels or bytes than any kernel's modules have.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A module that is not an ELF file with module information.
    #[error("{} is not a kernel module: {reason}", path.display())]
    NotModule {
        /// The module's file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// They were built for another kernel.
    #[error("they are for Linux {modules}, the kernel is {kernel}")]
    Mismatch {
        /// Release the modules were built for.
        modules: String,
        /// Release of the kernel.
        kernel: String,
    },
    /// A module depends on one that is not there.
    #[error("module {module} needs {dependency}, which is neither there nor built in")]
    Dependency {
        /// The module.
        module: String,
        /// What it needs.
        dependency: String,
    },
    /// Modules that depend on one another.
    #[error("module {module} depends on itself")]
    Circle {
        /// One of them.
        module: String,
    },
}
