//! QEMU, the fallback for Firecracker: `q35`, virtio over PCI, the kernel booted directly through PVH.
//!
//! Its vsock is `banger-vsock-device`, a separate process with the same Unix sockets as Firecracker's. If that
//! program is missing and `/dev/vhost-vsock` can be opened, it is the host kernel's vsock. QEMU inherits its Unix
//! sockets: a process that can create them reaches the user's other programs, such as `bangerd` itself.

mod qmp;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    Accel, BoxFuture, Control, GuestChannel, InheritedSocket, LaunchPlan, ProcessSpec, Role, SocketSide,
    VmSpec, Vmm, VmmError, VmmKind, confinement,
};

/// The installed QEMU, and how to use it.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    pub(crate) accel: Accel,
    pub(crate) vsock: Vsock,
}

/// Provider of a QEMU guest's vsock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Vsock {
    /// The program `banger-vsock-device`, at this path.
    Device(PathBuf),
    /// The host kernel.
    Kernel,
}

/// CPU model without KVM: all features, except the claim that `rep movsb` is fast (ERMS, FSRM). QEMU translates it
/// byte by byte, and a kernel that relies on the claim takes more than twice as long to copy anything.
const TRANSLATED_CPU: &str = "max,-erms,-fsrm";

/// Name of the root port of the vsock device.
const VSOCK_PORT: &str = "vsock-port";

/// First port for guests that connect to the host kernel's vsock; each context id has its own port.
const FIRST_READY_PORT: u32 = 1 << 31;

impl Vmm for Qemu {
    fn kind(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn accel(&self) -> Accel {
        self.accel
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn plan(&self, spec: &VmSpec) -> Result<LaunchPlan, VmmError> {
        let control = spec.run_dir.join("qmp.sock");
        let mut arguments = Arguments::default();
        let ready_port = self.ready_port(spec);
        self.machine(spec, ready_port, &control, &mut arguments);
        disks(spec, &mut arguments);
        network(spec, &mut arguments);
        let (guest, helper) = self.vsock(spec, &mut arguments);
        let vmm = ProcessSpec {
            role: Role::Vmm,
            program: self.program.clone(),
            args: arguments.words,
            sockets: arguments.sockets,
            ready: None,
            confinement: confinement::qemu(spec, self.accel, self.vsock == Vsock::Kernel),
            in_network: true,
        };
        Ok(LaunchPlan {
            files: Vec::new(),
            links: spec.links(),
            processes: helper.into_iter().chain([vmm]).collect(),
            control,
            guest,
            ready_port,
        })
    }
}

/// QEMU's monitor, over QMP.
#[derive(Debug)]
pub(crate) struct Monitor;

impl Control for Monitor {
    fn ping<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(qmp::execute(control, json!({ "execute": "query-status" })))
    }

    fn pause<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(qmp::execute(control, json!({ "execute": "stop" })))
    }

    fn resume<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        Box::pin(qmp::execute(control, json!({ "execute": "cont" })))
    }

    fn ctrl_alt_del<'a>(&'a self, control: &'a Path) -> BoxFuture<'a, Result<(), VmmError>> {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        Box::pin(qmp::execute(control, json!({ "execute": "send-key", "arguments": { "keys": keys } })))
    }
}

/// A command line.
#[derive(Default)]
struct Arguments {
    words: Vec<OsString>,
    sockets: Vec<InheritedSocket>,
}

impl Arguments {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.push(name.into());
        self.words.push(value.into());
    }

    /// Adds a character device for a socket that QEMU inherits.
    fn socket(&mut self, options: &str, side: SocketSide) {
        self.option("-chardev", format!("socket,{options},fd="));
        self.sockets.push(InheritedSocket { argument: self.words.len() - 1, side });
    }
}

impl Qemu {
    /// Returns the port that the guest connects to when it is up. The host kernel's vsock has one set of ports for
    /// all VMs of all users, so each VM gets its own port there.
    fn ready_port(&self, spec: &VmSpec) -> u32 {
        match self.vsock {
            Vsock::Device(_) => spec.ready_port,
            Vsock::Kernel => FIRST_READY_PORT | spec.vsock_cid,
        }
    }

    /// Returns the machine type of this version: major and minor number of the stable release, `pc-q35-7.2`.
    fn machine_type(&self) -> String {
        let mut numbers = self.version.split('.');
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => format!("pc-q35-{major}.{minor}"),
            _ => "q35".to_owned(),
        }
    }

    fn machine(&self, spec: &VmSpec, ready_port: u32, control: &Path, arguments: &mut Arguments) {
        let memory = spec.memory_mib;
        arguments.words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(Into::into));
        arguments.option("-display", "none");
        arguments
            .option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        // The machine of this QEMU's version, which later versions have too: a saved VM needs the same. Devices that
        // our guests never use are off: each costs the guest a probe.
        let devices = "memory-backend=memory,usb=off,vmport=off,sata=off,smbus=off,smm=off";
        arguments.option("-machine", format!("{},{devices}", self.machine_type()));
        let (accel, cpu) = match self.accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg => ("tcg,thread=multi", TRANSLATED_CPU),
        };
        arguments.option("-accel", accel);
        arguments.option("-cpu", cpu);
        arguments.option("-smp", spec.vcpu.to_string());
        arguments.option("-m", format!("{memory}M"));
        // Shared, because the vsock device is a separate process.
        arguments.option("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
        arguments.option("-kernel", &spec.kernel);
        arguments.option("-initrd", &spec.initrd);
        let ready =
            if ready_port == spec.ready_port { String::new() } else { format!(" banger.ready={ready_port}") };
        arguments.option("-append", format!("{}{ready}", spec.cmdline));
        arguments.option("-chardev", "file,id=console,path=/proc/self/fd/1");
        arguments.option("-serial", "chardev:console");
        arguments.socket("id=qmp,server=on,wait=off", SocketSide::Listen(control.to_owned()));
        arguments.option("-mon", "chardev=qmp,mode=control");
        arguments.option("-device", "virtio-rng-pci,disable-legacy=on");
    }

    fn vsock(&self, spec: &VmSpec, arguments: &mut Arguments) -> (GuestChannel, Option<ProcessSpec>) {
        let cid = spec.vsock_cid;
        // A device on a root port can be unplugged, as saving a VM requires of this one.
        arguments.option("-device", format!("pcie-root-port,id={VSOCK_PORT},chassis=1"));
        match &self.vsock {
            Vsock::Kernel => {
                let device = format!("vhost-vsock-pci,guest-cid={cid},bus={VSOCK_PORT},disable-legacy=on");
                arguments.option("-device", device);
                (GuestChannel::Vsock { cid }, None)
            }
            Vsock::Device(program) => {
                let [socket, vhost] = ["vsock.sock", "vhost.sock"];
                arguments.socket("id=vsock", SocketSide::Connect(spec.run_dir.join(vhost)));
                let device = format!("vhost-user-vsock-pci,chardev=vsock,bus={VSOCK_PORT},disable-legacy=on");
                arguments.option("-device", device);
                let args: [OsString; 8] = [
                    "--guest-cid".into(),
                    cid.to_string().into(),
                    "--vhost-socket".into(),
                    vhost.into(),
                    "--host-socket".into(),
                    socket.into(),
                    "--ready-port".into(),
                    spec.ready_port.to_string().into(),
                ];
                let process = ProcessSpec {
                    role: Role::VsockDevice,
                    program: program.clone(),
                    args: args.to_vec(),
                    sockets: Vec::new(),
                    ready: Some(spec.run_dir.join(vhost)),
                    confinement: confinement::vsock_device(spec),
                    in_network: false,
                };
                (GuestChannel::Hybrid(spec.run_dir.join(socket)), Some(process))
            }
        }
    }
}

fn disks(spec: &VmSpec, arguments: &mut Arguments) {
    for (number, disk) in spec.disks.iter().enumerate() {
        let node = json!({
            "driver": "raw",
            "node-name": format!("disk{number}"),
            "read-only": disk.read_only,
            "discard": "unmap",
            // VMs share an image; the store ensures that only one VM uses each of the other disks.
            "file": { "driver": "file", "filename": disk.vmm_path(), "locking": "off" },
        });
        arguments.option("-blockdev", node.to_string());
        arguments.option("-device", format!("virtio-blk-pci,drive=disk{number},disable-legacy=on"));
    }
}

fn network(spec: &VmSpec, arguments: &mut Arguments) {
    let Some(tap) = &spec.network else { return };
    arguments.option("-netdev", format!("tap,id=net0,ifname={},script=no,downscript=no", tap.name));
    // Nothing boots from the network, so the boot ROM may be missing.
    let device = format!("virtio-net-pci,netdev=net0,mac={},disable-legacy=on,romfile=", tap.mac_text());
    arguments.option("-device", device);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::spec_for_test;

    fn qemu(accel: Accel, vsock: Vsock) -> Qemu {
        Qemu { program: "/usr/bin/qemu-system-x86_64".into(), version: "7.2.22".into(), accel, vsock }
    }

    #[test]
    fn qemu_is_planned_without_kvm_and_with_the_vsock_device() {
        let plan = qemu(Accel::Tcg, Vsock::Device("/usr/bin/banger-vsock-device".into()))
            .plan(&spec_for_test())
            .unwrap();
        insta::assert_debug_snapshot!(plan);
    }

    #[test]
    fn qemu_is_planned_with_kvm_kernel_vsock_and_no_network() {
        let spec = VmSpec { network: None, ..spec_for_test() };
        let plan = qemu(Accel::Kvm, Vsock::Kernel).plan(&spec).unwrap();
        insta::assert_debug_snapshot!(plan);
    }
}
