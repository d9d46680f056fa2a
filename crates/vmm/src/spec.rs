//! A VM's hardware, and the plan to start it, both as plain data.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf};

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
    /// The VM's network.
    pub network: Network,
    /// The VM's own directory for sockets and configuration. Must be short: a socket's path has at most 107 bytes.
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

/// Network of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// No network.
    None,
    /// User-mode network, without privileges: out through the host's own connections.
    User,
    /// A network interface that reaches nothing.
    Isolated,
}

/// Everything needed to start a VM.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// Files to write before the processes start.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Processes to start, in this order; the VMM is last.
    pub processes: Vec<ProcessSpec>,
    /// The VMM's control socket: Firecracker's API, or QMP.
    pub control: PathBuf,
    /// Address of the guest.
    pub guest: GuestChannel,
    /// Host port that the guest connects to when it is up.
    pub ready_port: u32,
    /// Network for the agent to configure; `None` without a network.
    pub network: Option<GuestNetwork>,
    /// Description of the network for users.
    pub network_note: String,
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

/// Network configuration for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Interface name in the guest.
    pub interface: String,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Its prefix length in bits.
    pub prefix: u8,
    /// Address of the gateway.
    pub gateway: Ipv4Addr,
    /// Address of the DNS resolver.
    pub nameserver: Ipv4Addr,
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
        network: Network::User,
        run_dir: "/run/vms/v".into(),
    }
}
