//! Finds which restrictions this kernel can apply.

use std::{io, sync::OnceLock};

/// Restrictions that this kernel can apply to every program, beside those of all kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Version of Landlock's interface, or why Landlock cannot be used.
    pub landlock: Result<u32, String>,
    /// True if the kernel filters system calls.
    pub seccomp: bool,
}

/// First version of Landlock's interface that restricts TCP (Linux 6.7).
pub const LANDLOCK_TCP: u32 = 4;

/// First version of Landlock's interface that restricts signals and abstract Unix sockets (Linux 6.12).
pub const LANDLOCK_SCOPES: u32 = 6;

/// First version of Landlock's interface that restricts connections to Unix sockets by path (Linux 7.1).
pub const LANDLOCK_UNIX: u32 = 9;

impl Support {
    /// Returns the support of the running kernel.
    pub fn of_kernel() -> &'static Self {
        static SUPPORT: OnceLock<Support> = OnceLock::new();
        SUPPORT.get_or_init(|| Self { landlock: landlock_version(), seccomp: has_seccomp() })
    }

    /// Returns whether Landlock's interface has `version`.
    pub fn has_landlock(&self, version: u32) -> bool {
        self.landlock.as_ref().is_ok_and(|found| *found >= version)
    }
}

fn landlock_version() -> Result<u32, String> {
    const CREATE_RULESET_VERSION: libc::c_long = 1;
    let none: libc::c_long = 0;
    // SAFETY: with this flag, the system call returns a number and uses no memory of the process.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, none, CREATE_RULESET_VERSION) };
    u32::try_from(version).map_err(|_| {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel has no Landlock; Linux 5.13 or later can have it".to_owned(),
            Some(libc::EOPNOTSUPP) => {
                "Landlock is off: add it to the kernel's command line, as in lsm=landlock,yama".to_owned()
            }
            _ => format!("Landlock cannot be used: {error}"),
        }
    })
}

fn has_seccomp() -> bool {
    let (operation, flags) = (libc::SECCOMP_GET_ACTION_AVAIL, 0);
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the pointer is to a local of the type that the kernel reads.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const action) == 0 }
}
