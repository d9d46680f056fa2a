//! What happens in the child between fork and exec: system calls only.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    process::{Resource, Rlimit, getrlimit, setrlimit, setsid},
    thread::{
        CapabilitySet, CapabilitySets, LinkNameSpaceType, clear_ambient_capability_set,
        move_into_link_name_space, set_capabilities, set_no_new_privs,
    },
};
use seccompiler::BpfProgram;

use super::policy::Limits;

/// Restrictions that a program cannot lift.
#[derive(Debug)]
pub(super) struct Restrictions {
    pub(super) ruleset: Option<OwnedFd>,
    pub(super) filter: Option<BpfProgram>,
}

/// Namespaces for a program to run in, as descriptors of files in `/proc/PID/ns`.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace, if it is another than this process's.
    pub user: Option<OwnedFd>,
    /// The network namespace. It must belong to that user namespace.
    pub network: OwnedFd,
}

/// A limit in both its forms.
pub(super) type Limit = (Resource, u64);

/// Core dumps would write a guest's memory to the host's disk.
pub(super) const NO_CORE: Limit = (Resource::Core, 0);

/// First descriptor after the standard streams.
const FIRST_DESCRIPTOR: u32 = 3;

/// Returns the limits to set.
pub(super) fn limits(limits: &Limits) -> Vec<Limit> {
    let Limits { open_files, file_size, memory } = *limits;
    let optional = [file_size.map(|size| (Resource::Fsize, size)), memory.map(|size| (Resource::As, size))];
    [NO_CORE, (Resource::Nofile, open_files)].into_iter().chain(optional.into_iter().flatten()).collect()
}

/// Arranges that the child leads a session of its own, with these limits and descriptors, in `namespaces` if they are
/// given, restricted if there are `restrictions`.
pub(super) fn start(
    command: &mut Command,
    limits: Vec<Limit>,
    descriptors: Vec<OwnedFd>,
    namespaces: Option<Namespaces>,
    restrictions: Option<Restrictions>,
) {
    let prepare = move || -> io::Result<()> {
        // No controlling terminal, and no signals from this process's group.
        setsid()?;
        for (resource, limit) in &limits {
            lower(*resource, *limit)?;
        }
        if let Some(namespaces) = &namespaces {
            enter(namespaces)?;
        }
        close_on_exec()?;
        for descriptor in &descriptors {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        let Some(Restrictions { ruleset, filter }) = &restrictions else { return Ok(()) };
        set_no_new_privs(true)?;
        drop_capabilities()?;
        if let Some(ruleset) = ruleset {
            restrict_files(ruleset)?;
        }
        match filter {
            Some(filter) => seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error()),
            None => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and takes no lock, as
    // everything that it uses was put together before.
    unsafe { command.pre_exec(prepare) };
}

/// Enters the namespaces: the user namespace first, which gives this process all capabilities in it.
fn enter(namespaces: &Namespaces) -> io::Result<()> {
    if let Some(user) = &namespaces.user {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(namespaces.network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Sets a limit that is lower than the present one.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let present = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Some(limit.min(present));
    Ok(setrlimit(resource, Rlimit { current: limit, maximum: limit })?)
}

/// Makes exec close all descriptors but the standard streams. Those that this process has opened are so already; it
/// may have inherited others.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: changes a flag of descriptors, by their numbers.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_DESCRIPTOR, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done == 0 {
        return Ok(());
    }
    // Before Linux 5.11.
    let open_files = getrlimit(Resource::Nofile).current.unwrap_or(1024).min(65_536);
    for number in i64::from(FIRST_DESCRIPTOR)..i64::try_from(open_files).unwrap_or(1024) {
        // SAFETY: changes a flag of a descriptor, by its number; most of them do not exist.
        unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Removes all capabilities but CAP_NET_ADMIN and CAP_NET_BIND_SERVICE from this process and from those it starts.
pub(super) fn keep_network_capabilities() -> io::Result<()> {
    const KEPT: [libc::c_int; 2] = [10, 12];
    set_no_new_privs(true)?;
    for capability in (0..64).filter(|capability| !KEPT.contains(capability)) {
        // SAFETY: changes an attribute of the process. It fails for numbers that are no capability.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    Ok(())
}

/// Removes all capabilities, which only root has, and those that an exec as root would restore.
fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: changes an attribute of the process. It fails for numbers that are no capability, and without
        // privileges: then there is nothing to remove.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    match clear_ambient_capability_set() {
        // A kernel without ambient capabilities.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `struct landlock_path_beneath_attr` of <linux/landlock.h>.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Adds the process's own directory in /proc to the ruleset, which only the child can, and applies it.
fn restrict_files(ruleset: &OwnedFd) -> io::Result<()> {
    // LANDLOCK_RULE_PATH_BENEATH, LANDLOCK_ACCESS_FS_READ_FILE and _READ_DIR of <linux/landlock.h>.
    const PATH_BENEATH: libc::c_int = 1;
    const READ: u64 = 1 << 2 | 1 << 3;
    let ruleset = ruleset.as_raw_fd();
    // SAFETY: the string is terminated, and the flags open nothing.
    let own = unsafe { libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if own >= 0 {
        let rule = PathBeneath { allowed_access: READ, parent_fd: own };
        // SAFETY: the pointer is to a local of the type that the kernel reads for this kind of rule.
        let added =
            unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, PATH_BENEATH, &raw const rule, 0) };
        if added != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: restricts this process; uses no memory.
    if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
