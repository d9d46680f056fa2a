//! What a confined program may use, as plain data.

use std::path::{Path, PathBuf};

/// What a program may use. Everything else is refused, except its own process, its installation, and what every
/// program needs: libraries, `/dev/null`, random numbers, the time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Files and directories. A directory includes everything below it.
    pub paths: Vec<PathRule>,
    /// Sockets that it may create.
    pub sockets: Sockets,
    /// System calls that it may make.
    pub system_calls: SystemCalls,
    /// Limits of its resources.
    pub limits: Limits,
}

/// Access to a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// The file or directory. A symbolic link means its target. It is skipped if it does not exist.
    pub path: PathBuf,
    /// What the program may do with it.
    pub access: Access,
}

/// Access to a file, or to everything below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read, and execute programs.
    Run,
    /// Read, and connect to Unix sockets.
    Connect,
    /// Read and write existing files.
    Write,
    /// Read, write, and send `ioctl` commands to devices.
    Device,
    /// Read, write, create, rename and remove; create Unix sockets and connect to them.
    All,
}

/// Sockets that a program may create. It can always use sockets that it inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// No sockets.
    Denied,
    /// Unix sockets.
    Unix,
    /// IPv4 and IPv6, for outgoing connections, with the addresses of name servers.
    Internet,
    /// All of these, for a program that resolves names with the C library.
    Names,
}

/// System calls that a program may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemCalls {
    /// Those of a program that starts no processes.
    OneProcess,
    /// Those of a program that starts others.
    Processes,
    /// Unrestricted at the start: the program installs a filter of its own.
    OwnFilter,
}

/// Limits of a program's resources (getrlimit(2)). It never dumps core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of open files.
    pub open_files: u64,
    /// Size of a file that it writes, in bytes.
    pub file_size: Option<u64>,
    /// Address space, in bytes.
    pub memory: Option<u64>,
}

impl Default for Confinement {
    /// Returns the confinement of a program that only computes.
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            sockets: Sockets::Denied,
            system_calls: SystemCalls::OneProcess,
            limits: Limits { open_files: 256, file_size: None, memory: None },
        }
    }
}

impl Confinement {
    /// Adds a file or directory.
    #[must_use]
    pub fn allow(mut self, path: impl AsRef<Path>, access: Access) -> Self {
        self.paths.push(PathRule { path: path.as_ref().to_owned(), access });
        self
    }
}
