//! What each process may do, as data; `banger-sys` applies it. A VMM that opens another file, such as a snapshot, needs
//! it here.

use banger_sys::confine::{Access, Confinement, Limits, Sockets, SystemCalls};

use crate::{Accel, VmSpec};

/// Number of open files of a VMM: its disks and devices, and a socket for each of the guest's connections.
const VMM_FILES: u64 = 4096;

/// Number of open files of the vsock device: its limit of connections, and some.
const DEVICE_FILES: u64 = 1024;

const KVM: &str = "/dev/kvm";

const TUN: &str = "/dev/net/tun";

/// Returns what each process may do, by its name.
pub fn confinements() -> [(&'static str, Confinement); 4] {
    let example = VmSpec {
        id: String::new(),
        vcpu: 1,
        memory_mib: 1024,
        kernel: "vmlinux".into(),
        initrd: "initrd".into(),
        cmdline: String::new(),
        disks: Vec::new(),
        largest_file: 1 << 30,
        vsock_cid: 3,
        ready_port: 1,
        network: None,
        run_dir: "run".into(),
    };
    [
        ("firecracker", firecracker(&example)),
        ("qemu", qemu(&example, Accel::Kvm, false)),
        // While the guest runs.
        ("vsock device", Confinement { sockets: Sockets::Denied, ..vsock_device(&example) }),
        ("KVM probe", probe()),
    ]
}

/// Firecracker: the VM's files, its sockets, its tap, and KVM. It installs a filter of system calls in each of its threads.
pub(crate) fn firecracker(spec: &VmSpec) -> Confinement {
    let confinement = Confinement {
        sockets: Sockets::Unix,
        system_calls: SystemCalls::OwnFilter,
        limits: vmm_limits(spec),
        ..Confinement::default()
    };
    // It creates its own sockets.
    hardware(spec, confinement).allow(&spec.run_dir, Access::All).allow(KVM, Access::Device)
}

/// QEMU: the VM's files, its tap, and KVM. It inherits its sockets.
pub(crate) fn qemu(spec: &VmSpec, accel: Accel, vhost_vsock: bool) -> Confinement {
    let confinement = Confinement { limits: vmm_limits(spec), ..Confinement::default() };
    let mut confinement = hardware(spec, confinement).allow("/etc/qemu", Access::Read);
    if accel == Accel::Kvm {
        confinement = confinement.allow(KVM, Access::Device);
    }
    if vhost_vsock {
        confinement = confinement.allow("/dev/vhost-vsock", Access::Device);
    }
    confinement
}

/// The vsock device: the VM's sockets. When they exist, it gives up everything else.
pub(crate) fn vsock_device(spec: &VmSpec) -> Confinement {
    let limits = Limits { open_files: DEVICE_FILES, file_size: None, memory: None };
    let confinement = Confinement { sockets: Sockets::Unix, limits, ..Confinement::default() };
    confinement.allow(&spec.run_dir, Access::All)
}

/// The KVM probe: KVM.
pub(crate) fn probe() -> Confinement {
    Confinement::default().allow(KVM, Access::Device)
}

/// A VMM that prints its version: nothing. It may be a script that runs the program.
pub(crate) fn version() -> Confinement {
    Confinement { system_calls: SystemCalls::Processes, ..Confinement::default() }
}

fn vmm_limits(spec: &VmSpec) -> Limits {
    Limits { open_files: VMM_FILES, file_size: Some(spec.largest_file), memory: None }
}

fn hardware(spec: &VmSpec, confinement: Confinement) -> Confinement {
    let mut confinement = confinement.allow(&spec.kernel, Access::Read).allow(&spec.initrd, Access::Read);
    if spec.network.is_some() {
        confinement = confinement.allow(TUN, Access::Device);
    }
    spec.disks.iter().fold(confinement, |all, disk| {
        all.allow(&disk.path, if disk.read_only { Access::Read } else { Access::Write })
    })
}
