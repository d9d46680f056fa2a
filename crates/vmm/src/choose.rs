//! Chooses the VMM for a VM: the requested one, else Firecracker if KVM works, else QEMU.

use crate::{
    Accel, Control, KvmVerdict, Vmm, VmmError, VmmKind,
    discover::{HostVmms, NO_VSOCK},
    firecracker::{self, Firecracker},
    qemu::{self, Qemu, Vsock},
};

/// Chooses a VMM of `host`. A slower choice comes with a sentence that says why and what to do, unless that
/// choice was `requested` and KVM's verdict is known.
///
/// # Errors
/// Returns an error if the requested VMM cannot be used, or none can, or if KVM's verdict is unknown. In the last case,
/// a requested QEMU is chosen nevertheless, and runs the VM in software.
pub fn choose(
    requested: Option<VmmKind>,
    host: &HostVmms,
) -> Result<(Box<dyn Vmm>, Option<String>), VmmError> {
    match requested {
        Some(VmmKind::Firecracker) => Ok((Box::new(firecracker(host)?), None)),
        Some(VmmKind::Qemu) => {
            let slower = |unknown| format!("the VM runs without KVM, about ten times slower: {unknown}");
            Ok((Box::new(qemu(host)?), unknown(host).map(slower)))
        }
        None => match firecracker(host) {
            Err(unknown @ VmmError::KvmUnknown { .. }) => Err(unknown),
            Ok(firecracker) => Ok((Box::new(firecracker), None)),
            Err(no_firecracker) => {
                let qemu = qemu(host).map_err(|no_qemu| VmmError::NoVmm {
                    why: format!("{}; and {}", reason(&no_firecracker), reason(&no_qemu)),
                })?;
                let slower = slower(host, qemu.accel());
                Ok((Box::new(qemu), Some(slower)))
            }
        },
    }
}

/// Returns the client for requests to a VMM of this kind.
pub fn control(kind: VmmKind) -> &'static dyn Control {
    match kind {
        VmmKind::Firecracker => &firecracker::Api,
        VmmKind::Qemu => &qemu::Monitor,
    }
}

/// Returns the error for a choice that needs KVM's verdict, if there is no verdict.
fn unknown(host: &HostVmms) -> Option<VmmError> {
    let why = || VmmError::KvmUnknown { why: host.kvm.reason.clone() };
    (host.kvm.verdict == KvmVerdict::Unknown).then(why)
}

fn reason(error: &VmmError) -> String {
    match error {
        VmmError::Unusable { why, .. } => why.clone(),
        other => other.to_string(),
    }
}

fn firecracker(host: &HostVmms) -> Result<Firecracker, VmmError> {
    // Checked first: without a verdict, the replacement for a missing Firecracker is unknown too.
    if let Some(unknown) = unknown(host) {
        return Err(unknown);
    }
    let unusable = |why| VmmError::Unusable { vmm: VmmKind::Firecracker, why };
    let program = host.firecracker.clone().map_err(unusable)?;
    if !host.kvm.is_usable() {
        return Err(VmmError::NoKvm { why: host.kvm.reason.clone() });
    }
    Ok(Firecracker { program: program.program, version: program.version })
}

fn qemu(host: &HostVmms) -> Result<Qemu, VmmError> {
    let unusable = |why| VmmError::Unusable { vmm: VmmKind::Qemu, why };
    let program = host.qemu.clone().map_err(unusable)?;
    let vsock = match (&host.vsock_device, host.vhost_vsock) {
        (Some(device), _) => Vsock::Device(device.clone()),
        (None, true) => Vsock::Kernel,
        (None, false) => return Err(unusable(format!("qemu has no vsock: {NO_VSOCK}"))),
    };
    let accel = if host.kvm.is_usable() { Accel::Kvm } else { Accel::Tcg };
    Ok(Qemu { program: program.program, version: program.version, accel, vsock })
}

fn slower(host: &HostVmms, accel: Accel) -> String {
    match (accel, &host.firecracker) {
        (Accel::Tcg, _) => format!(
            "VMs run without KVM, about ten times slower: {}; a host with KVM, or a cloud VM with nested \
             virtualisation, runs them at full speed",
            host.kvm.reason
        ),
        (Accel::Kvm, Err(why)) => format!("using qemu, which starts slower: {why}"),
        (Accel::Kvm, Ok(_)) => "using qemu, which starts slower".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KvmProbe, discover::InstalledProgram};

    fn host(kvm: bool, firecracker: bool, qemu: bool, vsock: bool) -> HostVmms {
        let verdict = if kvm { KvmVerdict::Usable } else { KvmVerdict::Broken };
        let found = |is_installed, name: &str| {
            let found =
                InstalledProgram { program: format!("/usr/bin/{name}").into(), version: "1.2".into() };
            if is_installed { Ok(found) } else { Err(format!("{name} is not installed")) }
        };
        HostVmms::for_test(
            KvmProbe::new(verdict, "because"),
            found(firecracker, "firecracker"),
            found(qemu, "qemu"),
            vsock.then(|| "/usr/bin/banger-vsock-device".into()),
        )
    }

    #[test]
    fn the_requested_vmm_is_preferred_then_firecracker_then_qemu() {
        use VmmKind::{Firecracker, Qemu};
        // requested, (kvm, firecracker, qemu, vsock) → kind, with KVM, reported as slower
        for (requested, (kvm, firecracker, qemu, vsock), expected) in [
            (None, (true, true, true, true), Ok((Firecracker, true, false))),
            (None, (true, false, true, true), Ok((Qemu, true, true))),
            (None, (false, true, true, true), Ok((Qemu, false, true))),
            (
                None,
                (false, true, false, true),
                Err("firecracker needs KVM: because; and qemu is not installed"),
            ),
            (None, (false, false, true, false), Err("banger-vsock-device is missing beside bangerd")),
            (Some(Qemu), (true, true, true, true), Ok((Qemu, true, false))),
            (Some(Firecracker), (false, true, true, true), Err("firecracker needs KVM: because")),
            (Some(Firecracker), (true, false, true, true), Err("firecracker is not installed")),
        ] {
            let chosen = choose(requested, &host(kvm, firecracker, qemu, vsock));
            match (chosen, expected) {
                (Ok((vmm, slower)), Ok((kind, with_kvm, is_slower))) => {
                    assert_eq!(
                        (vmm.kind(), vmm.accel() == Accel::Kvm, slower.is_some()),
                        (kind, with_kvm, is_slower)
                    );
                }
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (chosen, expected) => panic!("{chosen:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn without_a_kvm_verdict_only_a_requested_qemu_is_chosen() {
        let mut unknown = host(true, true, true, true);
        unknown.kvm = KvmProbe::new(KvmVerdict::Unknown, "busy");
        for requested in [None, Some(VmmKind::Firecracker)] {
            let error = choose(requested, &unknown).unwrap_err();
            assert!(matches!(error, VmmError::KvmUnknown { .. }), "{error}");
        }
        let (vmm, slower) = choose(Some(VmmKind::Qemu), &unknown).unwrap();
        assert_eq!((vmm.kind(), vmm.accel()), (VmmKind::Qemu, Accel::Tcg));
        assert!(slower.unwrap().contains("busy"));
    }
}
