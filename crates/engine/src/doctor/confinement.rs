//! Checks which restrictions this kernel applies to each kind of process that banger starts.

use std::path::Path;

use banger_api::{ApiError, Check, ErrorKind};
use banger_sys::confine::{
    Confinement, LANDLOCK_SCOPES, LANDLOCK_TCP, LANDLOCK_UNIX, Sockets, Support, SystemCalls,
};

use crate::logs::console_logger_confinement;

/// Returns a check for each kind of process.
pub(super) fn all(support: &Support) -> Vec<Check> {
    let vmms = banger_vmm::confinements().map(|(name, confinement)| (name, Some(confinement)));
    let console = ("console logger", Some(console_logger_confinement(Path::new("vm"))));
    let kinds = vmms.into_iter().chain([console]).chain(banger_image::confinements());
    kinds
        .map(|(name, confinement)| {
            let name = format!("{name} process");
            match confinement {
                Some(confinement) => check(name, &confinement, support),
                None => Check::pass(
                    name,
                    "not confined: it mounts file systems and creates users; it installs packages that Debian \
                     has signed",
                ),
            }
        })
        .collect()
}

fn check(name: String, confinement: &Confinement, support: &Support) -> Check {
    let message = [
        landlock(confinement, support),
        seccomp(confinement, support),
        "no new privileges, no capabilities".to_owned(),
        limits(confinement),
    ]
    .join("; ");
    if support.landlock.is_ok() && support.seccomp {
        Check::pass(name, message)
    } else {
        Check::warn(name, ApiError::new(ErrorKind::NotPermitted, message))
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

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::Verdict;

    fn messages(landlock: Result<u32, String>, seccomp: bool) -> Vec<(String, Verdict, String)> {
        let checks = all(&Support { landlock, seccomp });
        checks.into_iter().map(|check| (check.name, check.verdict, check.message)).collect()
    }

    #[test]
    fn each_process_has_a_line_with_what_the_kernel_applies() {
        let message = |support: &[(String, Verdict, String)], name: &str| {
            support.iter().find(|(found, ..)| found == name).unwrap().2.clone()
        };
        let newest = messages(Ok(9), true);
        assert!(newest.iter().all(|(_, verdict, _)| *verdict == Verdict::Pass), "{newest:?}");
        assert_eq!(
            message(&newest, "firecracker process"),
            "its own files only (Landlock 9); its own seccomp filter; no new privileges, no capabilities; limits: \
             file size, 4096 open files, no core dumps"
        );
        let first = messages(Ok(1), true);
        let firecracker = message(&first, "firecracker process");
        let missing = "without TCP (Linux 6.7) and signals (Linux 6.12) and Unix sockets by path (Linux 7.1)";
        assert!(firecracker.contains(missing), "{firecracker}");
        assert!(message(&first, "e2fsck process").contains("(Landlock 1, without signals (Linux 6.12))"));
    }

    #[test]
    fn a_kernel_without_landlock_or_seccomp_is_a_warning() {
        for (landlock, seccomp, text) in [
            (Err("Landlock is off".to_owned()), true, "files not restricted (Landlock is off)"),
            (Ok(7), false, "system calls not restricted"),
        ] {
            let checks = messages(landlock, seccomp);
            // mmdebstrap is never confined.
            let (confined, unconfined): (Vec<_>, Vec<_>) =
                checks.into_iter().partition(|(name, ..)| name != "mmdebstrap process");
            assert!(confined.len() == 7 && unconfined.len() == 1, "{confined:?} {unconfined:?}");
            for (_, verdict, message) in confined {
                assert!(verdict == Verdict::Warn && message.contains(text), "{message}");
            }
        }
    }
}
