//! Describes a confinement to users: what this kernel applies of it.

use super::{
    policy::{Confinement, Sockets, SystemCalls},
    support::{LANDLOCK_SCOPES, LANDLOCK_TCP, LANDLOCK_UNIX, Support},
};

/// What a kernel applies of a confinement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The restrictions, in a line.
    pub message: String,
    /// Whether the kernel has both Landlock and seccomp.
    pub is_complete: bool,
}

impl Confinement {
    /// Returns what a kernel with this support applies of it.
    pub fn report(&self, support: &Support) -> Report {
        let message = [
            landlock(self, support),
            seccomp(self, support),
            "no new privileges, no capabilities".to_owned(),
            limits(self),
        ]
        .join("; ");
        Report { message, is_complete: support.landlock.is_ok() && support.seccomp }
    }
}

/// Describes what Landlock restricts, and what the kernel's version of it does not.
fn landlock(confinement: &Confinement, support: &Support) -> String {
    let version = match &support.landlock {
        Ok(version) => version,
        Err(why) => return format!("files not restricted ({why})"),
    };
    // Sockets of these kinds are refused by the filter of system calls instead.
    let filtered = support.seccomp && confinement.system_calls != SystemCalls::OwnFilter;
    let tcp = confinement.sockets == Sockets::Unix && !filtered;
    let unix = matches!(confinement.sockets, Sockets::Unix | Sockets::Names);
    let missing: Vec<_> = [
        (LANDLOCK_TCP, tcp, "TCP (Linux 6.7)"),
        (LANDLOCK_SCOPES, true, "signals (Linux 6.12)"),
        (LANDLOCK_UNIX, unix, "Unix sockets by path (Linux 7.1)"),
    ]
    .into_iter()
    .filter(|(since, applies, _)| *applies && version < since)
    .map(|(.., what)| what)
    .collect();
    match missing.as_slice() {
        [] => format!("its own files only (Landlock {version})"),
        missing => format!("its own files only (Landlock {version}, without {})", missing.join(" and ")),
    }
}

fn seccomp(confinement: &Confinement, support: &Support) -> String {
    match confinement.system_calls {
        _ if !support.seccomp => "system calls not restricted: this kernel has no seccomp filters".to_owned(),
        SystemCalls::OwnFilter => "its own seccomp filter".to_owned(),
        SystemCalls::OneProcess => "seccomp filter, no new processes".to_owned(),
        SystemCalls::Processes => "seccomp filter".to_owned(),
    }
}

fn limits(confinement: &Confinement) -> String {
    let limits = &confinement.limits;
    let optional = [
        limits.file_size.map(|_| "file size".to_owned()),
        limits.memory.map(|_| "memory".to_owned()),
        Some(format!("{} open files", limits.open_files)),
        Some("no core dumps".to_owned()),
    ];
    format!("limits: {}", optional.into_iter().flatten().collect::<Vec<_>>().join(", "))
}
