//! What runs VMs.

use banger_api::{Check, ErrorKind, Vmm as ApiVmm};
use banger_vmm::{Accel, HostVmms, KvmVerdict, VmmKind};

use crate::{error::EngineError, vmms::kind};

/// KVM, each program, and the one that is used.
pub(super) fn all(found: &HostVmms, configured: Option<ApiVmm>) -> Vec<Check> {
    let mut checks = vec![kvm(found)];
    checks.extend(found.programs().into_iter().map(|(name, program)| match program {
        Ok(what) => Check::pass(name, what),
        Err(why) => Check::warn(name, why, without(name)),
    }));
    checks.extend(chosen(found, configured));
    checks
}

fn kvm(found: &HostVmms) -> Check {
    let probed = format!("{}; probed just now", found.kvm);
    match found.kvm.verdict {
        KvmVerdict::Usable => Check::pass("KVM", probed),
        KvmVerdict::Unknown => {
            Check::warn("KVM", probed, "run `banger doctor` again when the host is less busy")
        }
        _ => Check::warn("KVM", probed, "VMs run all the same, with qemu, some ten times slower"),
    }
}

/// What it means that a program is not there.
fn without(name: &str) -> &'static str {
    match name {
        "firecracker" => "VMs run with qemu instead; firecracker starts them faster where KVM works",
        "qemu" => "it runs VMs where firecracker cannot (Debian: apt install qemu-system-x86)",
        _ => "qemu needs it: install all of banger's programs in one directory",
    }
}

/// The VMM of a VM that asks for none, and the network that its guest gets.
fn chosen(found: &HostVmms, configured: Option<ApiVmm>) -> Vec<Check> {
    let (vmm, slower) = match banger_vmm::choose(configured.map(kind), found) {
        Ok(chosen) => chosen,
        Err(error) => {
            let error = banger_api::ApiError::from(EngineError::from(error));
            let hint = match error.kind {
                ErrorKind::NoKvm => "make KVM usable, or set vm.vmm to qemu",
                ErrorKind::Timeout => "run `banger doctor` again when the host is less busy",
                _ => "install one of them; `banger doctor` then tells whether it can be used",
            };
            return vec![Check::fail("VMM", error.message, hint)];
        }
    };
    let accel = match vmm.accel() {
        Accel::Kvm => "with KVM",
        Accel::Tcg => "without KVM, in software",
    };
    let name = format!("{} {} {accel}", vmm.kind(), vmm.version());
    let used = match slower {
        Some(why) => Check::warn("VMM", name, why),
        None => Check::pass("VMM", name),
    };
    let network = match vmm.kind() {
        VmmKind::Qemu => Check::pass("network", "user mode: guests reach out through qemu's own network"),
        VmmKind::Firecracker => Check::warn(
            "network",
            "user mode: guests have no network with firecracker yet; exec, shell and pipes need none",
            "a VM with --vmm qemu reaches out",
        ),
    };
    let dns = Check::pass("DNS", "127.0.0.1:42069 is not used in user mode");
    vec![used, network, dns]
}
