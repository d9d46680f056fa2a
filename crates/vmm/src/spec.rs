//! A VM's hardware, and the plan to start it, both as plain data.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use banger_sys::confine::Confinement;

use crate::GuestChannel;

/// A VM's hardware.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// The VM's id, which is in an argument of each of its processes.
    pub id: String,
    /// Number of virtual CPUs, at least 1.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// An uncompressed ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The boot initrd.
    pub initrd: PathBuf,
    /// Part of the kernel command line that is the same for every VMM.
    pub cmdline: String,
    /// Disks in guest order: `vda`, `vdb`, …
    pub disks: Vec<Disk>,
    /// Size of the largest file that the VM writes, in bytes: a disk, or its memory.
    pub largest_file: u64,
    /// The guest's vsock context id, from 3 to 2^31 - 1.
    pub vsock_cid: u32,
    /// Host port that the guest connects to when it is up, unless the plan has another.
    pub ready_port: u32,
    /// The VM's network card; `None` for no network.
    pub network: Option<Tap>,
    /// The VM's own directory for sockets and configuration, in which its processes run. Must be short: a socket's path
    /// has at most 107 bytes.
    pub run_dir: PathBuf,
}

/// A disk: a raw file.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// True if the guest can only read it. Several VMs can share such a file.
    pub read_only: bool,
}

impl Disk {
    /// Returns the path by which the VMM opens the disk. A VM's own disk has a name in the directory in which its
    /// processes run: so a copy of a running VM finds its own copy of the disk there.
    pub(crate) fn vmm_path(&self) -> &Path {
        match self.path.file_name() {
            Some(name) if !self.read_only => Path::new(name),
            _ => &self.path,
        }
    }
}

/// A network card, connected to a tap that exists in the network namespace in which the VMM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Name of the tap.
    pub name: String,
    /// Hardware address of the card.
    pub mac: [u8; 6],
}

impl Tap {
    /// Returns the hardware address as text.
    pub(crate) fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// Everything needed to start a VM.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// Files to write before the processes start.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Symbolic links to create before: their paths and targets.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Processes to start, in this order; the VMM is last.
    pub processes: Vec<ProcessSpec>,
    /// The VMM's control socket: Firecracker's API, or QMP.
    pub control: PathBuf,
    /// Address of the guest.
    pub guest: GuestChannel,
    /// Host port that the guest connects to when it is up.
    pub ready_port: u32,
}

/// A process of a VM.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Role of the process.
    pub role: Role,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments of the program.
    pub args: Vec<OsString>,
    /// Sockets that the process inherits.
    pub sockets: Vec<InheritedSocket>,
    /// Socket that the process creates, which must exist before the next process starts.
    pub ready: Option<PathBuf>,
    /// What the process may do.
    pub confinement: Confinement,
    /// Whether it runs in the VM's network namespace, if there is one.
    pub in_network: bool,
}

/// A Unix socket that a process inherits, so that it need not be able to create any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritedSocket {
    /// Index of the argument to which the number of the socket's descriptor is appended.
    pub argument: usize,
    /// The socket's path, and its side.
    pub side: SocketSide,
}

/// Side of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketSide {
    /// Listens at this path, which does not exist yet.
    Listen(PathBuf),
    /// Is connected to this path, where another process listens.
    Connect(PathBuf),
}

/// Role of a VM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The vsock device of a QEMU guest.
    VsockDevice,
    /// The VMM. Its standard output is the guest's console.
    Vmm,
}

impl VmSpec {
    /// Returns the links by which the VMM opens the VM's own disks.
    pub(crate) fn links(&self) -> Vec<(PathBuf, PathBuf)> {
        let own = self.disks.iter().filter(|disk| !disk.read_only);
        own.map(|disk| (self.run_dir.join(disk.vmm_path()), disk.path.clone())).collect()
    }
}

#[cfg(test)]
pub(crate) fn spec_for_test() -> VmSpec {
    VmSpec {
        id: "00000000000000ab".into(),
        vcpu: 2,
        memory_mib: 1024,
        kernel: "/state/kernels/k/vmlinux".into(),
        initrd: "/cache/initrds/i.cpio".into(),
        cmdline: "console=ttyS0".into(),
        disks: vec![
            Disk { path: "/state/images/i/rootfs.ext4".into(), read_only: true },
            Disk { path: "/state/vms/v/work.ext4".into(), read_only: false },
        ],
        largest_file: 1 << 30,
        vsock_cid: 3,
        ready_port: 1025,
        network: Some(Tap { name: "tap0".into(), mac: [2, 0, 0, 0, 0, 1] }),
        run_dir: "/run/vms/v".into(),
    }
}
