//! Checks which restrictions this kernel applies to each kind of process that banger starts.

use std::path::Path;

use banger_api::{ApiError, Check, ErrorKind};
use banger_sys::confine::{Confinement, Support};

use crate::logs::console_logger_confinement;

/// Returns a check for each kind of process.
pub(super) fn all(support: &Support) -> Vec<Check> {
    let vmms = banger_vmm::confinements().map(|(name, confinement)| (name, Some(confinement)));
    let console = ("console logger", Some(console_logger_confinement(Path::new("vm"))));
    let gateway = ("gateway", Some(banger_net::gateway::confinement()));
    let kinds = vmms.into_iter().chain([console, gateway]).chain(banger_image::confinements());
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
    let report = confinement.report(support);
    if report.is_complete {
        Check::pass(name, report.message)
    } else {
        Check::warn(name, ApiError::new(ErrorKind::NotPermitted, report.message))
    }
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
            assert!(confined.len() == 8 && unconfined.len() == 1, "{confined:?} {unconfined:?}");
            for (_, verdict, message) in confined {
                assert!(verdict == Verdict::Warn && message.contains(text), "{message}");
            }
        }
    }
}
