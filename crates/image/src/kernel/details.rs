//! What an imported kernel brings: told of its files, whenever they were imported.

use std::path::Path;

use super::config::{Choice, Config, MAX_CONFIG};
use super::container::MAX_VMLINUX;
use super::features::{BOOT_MODULES, Presence, presence};
use super::modules::ModuleTree;
use super::{KernelError, elf};
use crate::ImageError;
use crate::codec;

/// Drivers that people ask for, by their modules, and the options that they are built with.
const OTHERS: [(&str, &str); 17] = [
    ("btrfs", "BTRFS_FS"),
    ("xfs", "XFS_FS"),
    ("vfat", "VFAT_FS"),
    ("squashfs", "SQUASHFS"),
    ("erofs", "EROFS_FS"),
    ("fuse", "FUSE_FS"),
    ("virtiofs", "VIRTIO_FS"),
    ("9p", "9P_FS"),
    ("nfs", "NFS_FS"),
    ("loop", "BLK_DEV_LOOP"),
    ("nf_tables", "NF_TABLES"),
    ("ip_tables", "IP_NF_IPTABLES"),
    ("bridge", "BRIDGE"),
    ("veth", "VETH"),
    ("tun", "TUN"),
    ("wireguard", "WIREGUARD"),
    ("kvm", "KVM"),
];

/// Where a VMM has its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// QEMU.
    Pci,
    /// Memory-mapped registers: Firecracker.
    Mmio,
}

impl Bus {
    fn driver(self) -> &'static str {
        match self {
            Self::Pci => "virtio_pci",
            Self::Mmio => "virtio_mmio",
        }
    }
}

/// What a kernel brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelDetails {
    /// Size of `vmlinux` in bytes.
    pub size: u64,
    /// How many modules there are.
    pub modules: u64,
    /// Whether Firecracker can boot it: it finds devices over memory-mapped registers.
    pub firecracker: bool,
    /// Whether QEMU can boot it: it has a PVH entry point, and finds devices over PCI.
    pub qemu: bool,
    /// The drivers that VMs boot with, in the order in which they are loaded.
    pub boot: Vec<(&'static str, Presence)>,
    /// Others that people ask for. None where nothing tells: no list of what is built in, no configuration.
    pub others: Vec<(&'static str, Option<Presence>)>,
}

/// Tells what the kernel brings that was imported into `kernel_dir`.
///
/// # Errors
/// When its files cannot be read.
pub fn kernel_details(kernel_dir: &Path) -> Result<KernelDetails, ImageError> {
    let vmlinux = vmlinux(kernel_dir)?;
    let tree = modules(kernel_dir)?;
    let config = kernel_dir.join("config");
    let config = match config.exists() {
        true => codec::read_file(&config, MAX_CONFIG)?.and_then(|text| Config::parse(&text)),
        false => None,
    };
    let config = config.or_else(|| Config::embedded(&vmlinux));
    let boot = BOOT_MODULES.each_ref().map(|it| (it.module, presence(it, &vmlinux, tree.as_ref())));
    let has = |name| boot.iter().any(|(module, how)| *module == name && *how != Presence::Absent);
    Ok(KernelDetails {
        size: vmlinux.len() as u64,
        modules: tree.as_ref().map_or(0, ModuleTree::count),
        firecracker: has("virtio_mmio"),
        qemu: has("virtio_pci") && elf::has_pvh_entry(&vmlinux),
        boot: boot.into(),
        others: OTHERS
            .map(|(name, option)| (name, told(name, option, tree.as_ref(), config.as_ref())))
            .into(),
    })
}

/// Whether the kernel that was imported into `kernel_dir` finds devices on `bus`. Where there are modules, they and their
/// list tell, in a few milliseconds.
///
/// # Errors
/// When its files cannot be read.
pub fn kernel_finds(kernel_dir: &Path, bus: Bus) -> Result<bool, ImageError> {
    let tree = modules(kernel_dir)?;
    let listed = tree.as_ref().is_some_and(|tree| tree.is_builtin(bus.driver()).is_some());
    let vmlinux = if listed { Vec::new() } else { vmlinux(kernel_dir)? };
    let driver = BOOT_MODULES.iter().find(|feature| feature.module == bus.driver());
    Ok(driver.is_some_and(|driver| presence(driver, &vmlinux, tree.as_ref()) != Presence::Absent))
}

fn vmlinux(kernel_dir: &Path) -> Result<Vec<u8>, ImageError> {
    let too_large = || ImageError::Kernel(KernelError::TooLarge { limit: MAX_VMLINUX });
    codec::read_file(&kernel_dir.join("vmlinux"), MAX_VMLINUX)?.ok_or_else(too_large)
}

fn modules(kernel_dir: &Path) -> Result<Option<ModuleTree>, ImageError> {
    let modules = kernel_dir.join("modules");
    modules.is_dir().then(|| ModuleTree::scan(&modules)).transpose().map_err(ImageError::Modules)
}

/// How there is a driver, as far as the modules, their list of what is built in, or the configuration tell.
fn told(name: &str, option: &str, tree: Option<&ModuleTree>, config: Option<&Config>) -> Option<Presence> {
    if tree.is_some_and(|tree| tree.path(name).is_some()) {
        return Some(Presence::Module);
    }
    let built_in = tree.and_then(|tree| tree.is_builtin(name));
    // As a module it would have been there.
    let built_in = built_in.or(config.map(|config| config.get(option) == Some(Choice::BuiltIn)))?;
    Some(if built_in { Presence::BuiltIn } else { Presence::Absent })
}
