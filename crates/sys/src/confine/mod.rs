//! Confines the programs that banger starts: what each may use is data ([`Confinement`]), applied here alone.
//!
//! | layer | restricts | module |
//! |---|---|---|
//! | Landlock | files, TCP, signals, Unix sockets | `landlock` |
//! | seccomp | system calls, kinds of sockets, new processes | `seccomp` |
//! | limits, capabilities, no new privileges, session, descriptors, namespaces | the process | `child` |
//!
//! Everything is prepared before the fork. The child only makes system calls, and then becomes the program: that costs
//! no second program start. Landlock and seccomp are left out on a kernel that has none; [`Support`] says which.

mod child;
mod installation;
mod landlock;
mod policy;
mod report;
mod seccomp;
mod support;

use std::{io, os::fd::OwnedFd, path::Path, process::Command};

pub use child::Namespaces;
pub use policy::{Access, Confinement, Limits, PathRule, Sockets, SystemCalls};
pub use report::Report;
pub use support::{LANDLOCK_SCOPES, LANDLOCK_TCP, LANDLOCK_UNIX, Support};

/// Confines the program of `command`, which must be a path. It inherits `descriptors`, under their numbers, beside
/// its standard streams.
///
/// # Errors
/// Returns an error if a restriction that the kernel has cannot be prepared. The spawn returns errors of applying it.
pub fn confine(
    command: &mut Command,
    confinement: &Confinement,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    confine_in(None, command, confinement, descriptors)
}

/// Confines the program of `command` as [`confine`] does, in other namespaces: it keeps its user and groups, and has no
/// capability there.
///
/// # Errors
/// As [`confine`].
pub fn confine_in(
    namespaces: Option<Namespaces>,
    command: &mut Command,
    confinement: &Confinement,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    let support = Support::of_kernel();
    let Confinement { paths, sockets, system_calls, limits } = confinement;
    let mut rules = installation::rules(Path::new(command.get_program()));
    rules.extend(installation::rules_for_sockets(*sockets));
    rules.extend(paths.iter().cloned());
    let restrictions = child::Restrictions {
        ruleset: if support.landlock.is_ok() { landlock::ruleset(&rules, *sockets)? } else { None },
        filter: if support.seccomp { seccomp::filter(*system_calls, *sockets)? } else { None },
    };
    child::start(command, child::limits(limits), descriptors, namespaces, Some(restrictions));
    Ok(())
}

/// Separates the program of `command` from this process, without confining it: a session of its own, no inherited
/// descriptors but its standard streams and these, no core dumps.
pub fn detach(command: &mut Command, descriptors: Vec<OwnedFd>) {
    child::start(command, vec![child::NO_CORE], descriptors, None, None);
}

/// Takes away from this process, for good, everything but what it has open: files, sockets, programs. For a program of
/// banger's own that has set itself up.
///
/// # Errors
/// Returns an error if the kernel has seccomp and refuses the filter.
pub fn keep_open_descriptors_only() -> io::Result<()> {
    if !Support::of_kernel().seccomp {
        return Ok(());
    }
    let filter = seccomp::filter_for_open_descriptors()?;
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

/// Takes away from this process, for good, all capabilities but those for networks: `CAP_NET_ADMIN` and
/// `CAP_NET_BIND_SERVICE`, which it must have. Programs that it starts as root have them too.
///
/// # Errors
/// Returns an error if it does not have them.
pub fn keep_network_capabilities() -> io::Result<()> {
    child::keep_network_capabilities()
}
