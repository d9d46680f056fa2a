//! A VM's hardware, and the plan to bring it up: plain data on both sides.

use std::{ffi::OsString, net::Ipv4Addr, path::PathBuf};

use crate::GuestChannel;

/// A VM's hardware.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Its id; in an argument of every process of the VM.
    pub id: String,
    /// Virtual CPUs, from 1.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// An uncompressed ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The boot initrd.
    pub initrd: PathBuf,
    /// The part of the kernel's command line that is the same with every VMM.
    pub cmdline: String,
    /// The disks, as the guest shall number them: `vda`, `vdb`, …
    pub disks: Vec<Disk>,
    /// The guest's vsock context id, from 3 to 2^31 - 1.
    pub vsock_cid: u32,
    /// The port of the host that the guest dials when it is up, unless the plan says another.
    pub ready_port: u32,
    /// Its network.
    pub network: Network,
    /// A folder of its own for sockets and configuration. Short: a socket's path has at most 107 bytes.
    pub run_dir: PathBuf,
}

/// A disk: a raw file.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Whether the guest may only read it; such a file may be shared by several VMs.
    pub read_only: bool,
}

/// What network a VM is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// None.
    None,
    /// One that needs no privilege: out through the host's own connections.
    User,
    /// An interface from which nothing is reached.
    Isolated,
}

/// All that is needed to start a VM.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// Files to write first.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Processes to start, in this order; the VMM is the last.
    pub processes: Vec<ProcessSpec>,
    /// The VMM's control socket: Firecracker's API, or QMP.
    pub control: PathBuf,
    /// The way to the guest.
    pub guest: GuestChannel,
    /// The port of the host that the guest will dial when it is up.
    pub ready_port: u32,
    /// What the guest's agent is to set up; `None` when there is no network.
    pub network: Option<GuestNetwork>,
    /// The network in words.
    pub network_note: String,
}

/// A process of a VM.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// What it is for.
    pub role: Role,
    /// Its program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// A socket it makes, which must be there before the next process starts.
    pub ready: Option<PathBuf>,
}

/// What a process of a VM is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The vsock device of a QEMU guest.
    VsockDevice,
    /// The VMM itself. Its standard output is the guest's console.
    Vmm,
}

/// A network as the guest must set it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Interface name in the guest.
    pub interface: String,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Its prefix length in bits.
    pub prefix: u8,
    /// The way out.
    pub gateway: Ipv4Addr,
    /// The resolver.
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
        vsock_cid: 3,
        ready_port: 1025,
        network: Network::User,
        run_dir: "/run/vms/v".into(),
    }
}
