//! Checks of KVM and the VMMs.

use banger_api::{ApiError, Check, ErrorKind, Remedy, Vmm as ApiVmm};
use banger_vmm::{Accel, HostVmms, KvmVerdict};

use crate::{error::EngineError, vmms::kind};

/// Checks KVM, each VMM program, and the VMM that is used.
pub(super) fn all(host: &HostVmms, configured: Option<ApiVmm>) -> Vec<Check> {
    let mut checks = vec![kvm(host)];
    checks.extend(host.programs().into_iter().map(|(name, program)| match program {
        Ok(what) => Check::pass(name, what),
        Err(why) => {
            Check::warn(name, ApiError::new(ErrorKind::MissingProgram, why).remedy(install_remedy(name)))
        }
    }));
    checks.extend(chosen(host, configured));
    checks
}

fn kvm(host: &HostVmms) -> Check {
    let probed = format!("{}; probed just now", host.kvm);
    let not_usable = |message| ApiError::new(ErrorKind::NoKvm, message);
    match host.kvm.verdict {
        KvmVerdict::Usable => Check::pass("KVM", probed),
        KvmVerdict::Unknown => Check::warn("KVM", not_usable(probed).remedy(Remedy::TryWhenLessBusy)),
        _ => {
            let message = format!("{probed}; VMs run in qemu without KVM, about ten times slower");
            Check::warn("KVM", not_usable(message).remedy(Remedy::MakeKvmUsable))
        }
    }
}

/// Returns how to install program `name`. The vsock device is banger's own and comes with it.
fn install_remedy(name: &str) -> Remedy {
    match name {
        "firecracker" | "qemu" => Remedy::InstallProgram { program: name.to_owned() },
        _ => Remedy::InstallOneBuild,
    }
}

/// Returns the VMM used for a VM that requests none.
fn chosen(host: &HostVmms, configured: Option<ApiVmm>) -> Vec<Check> {
    let (vmm, slower) = match banger_vmm::choose(configured.map(kind), host) {
        Ok(chosen) => chosen,
        Err(error) => {
            let error = ApiError::from(EngineError::from(error));
            let remedy = match error.kind {
                ErrorKind::NoKvm => Remedy::MakeKvmUsable,
                ErrorKind::Timeout => Remedy::TryWhenLessBusy,
                _ => Remedy::InstallVmm,
            };
            return vec![Check::fail("VMM", error.remedy(remedy))];
        }
    };
    let accel = match vmm.accel() {
        Accel::Kvm => "with KVM",
        Accel::Tcg => "without KVM, in software",
    };
    let name = format!("{} {} {accel}", vmm.kind(), vmm.version());
    let used = match slower {
        Some(_) => {
            let (kind, remedy) = match vmm.accel() {
                Accel::Tcg => (ErrorKind::NoKvm, Remedy::MakeKvmUsable),
                Accel::Kvm => (ErrorKind::MissingProgram, install_remedy("firecracker")),
            };
            Check::warn("VMM", ApiError::new(kind, name).remedy(remedy))
        }
        None => Check::pass("VMM", name),
    };
    let dns = Check::pass("DNS", "127.0.0.1:42069 is not used in user mode");
    vec![used, dns]
}
