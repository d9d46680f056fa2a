//! Starts a program in a new session, as a given user.

use std::{io, os::unix::process::CommandExt, process::Command};

use rustix::{
    process::{Gid, Uid, ioctl_tiocsctty, setsid},
    stdio::stdin,
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

/// User and groups of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Id of the user's primary group.
    pub gid: u32,
    /// Ids of the supplementary groups, which may include `gid`.
    pub groups: Vec<u32>,
}

/// Makes the program of `command` lead a new session and process group, as `credentials`. With `terminal`, its
/// standard input becomes the session's terminal. The spawn returns errors of these steps.
pub fn lead_session(command: &mut Command, credentials: Credentials, terminal: bool) {
    let groups: Vec<Gid> = credentials.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(credentials.uid), Gid::from_raw(credentials.gid));
    let become_leader = move || -> io::Result<()> {
        setsid()?;
        if terminal {
            ioctl_tiocsctty(stdin())?;
        }
        set_thread_groups(&groups)?;
        set_thread_gid(gid)?;
        set_thread_uid(uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and takes no lock, the
    // groups having been put together before. The child has one thread, so credentials of the thread are the process's.
    unsafe { command.pre_exec(become_leader) };
}
