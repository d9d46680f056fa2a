//! Details of an imported kernel, determined from its files.

use std::path::Path;

use super::config::{Choice, Config, MAX_CONFIG};
use super::container::MAX_VMLINUX;
use super::features::{BOOT_MODULES, Presence, presence};
use super::modules::ModuleTree;
use super::{KernelError, elf};
use crate::ImageError;
use crate::codec;

/// Other drivers that users look for: module name and configuration option.
const OTHER_FEATURES: [(&str, &str); 17] = [
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

/// The bus that a VMM uses for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// PCI, used by QEMU.
    Pci,
    /// Memory-mapped registers, used by Firecracker.
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

/// Details of an imported kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelDetails {
    /// Size of `vmlinux` in bytes.
    pub size: u64,
    /// Number of modules.
    pub modules: u64,
    /// Whether Firecracker can boot the kernel: it supports virtio over memory-mapped registers.
    pub firecracker: bool,
    /// Whether QEMU can boot the kernel: it has a PVH entry point and supports virtio over PCI.
    pub qemu: bool,
    /// Drivers needed at boot, in load order.
    pub boot: Vec<(&'static str, Presence)>,
    /// Other drivers. `None` if unknown, because there is no `modules.builtin` and no configuration.
    pub other_features: Vec<(&'static str, Option<Presence>)>,
}

/// Returns details of the kernel imported into `kernel_dir`.
///
/// # Errors
/// Returns an error if the files cannot be read.
pub fn kernel_details(kernel_dir: &Path) -> Result<KernelDetails, ImageError> {
    let vmlinux = vmlinux(kernel_dir)?;
    let tree = modules(kernel_dir)?;
    let config = kernel_dir.join("config");
    let config = match config.exists() {
        true => codec::read_file(&config, MAX_CONFIG)?.and_then(|text| Config::parse(&text)),
        false => None,
    };
    let config = config.or_else(|| Config::embedded(&vmlinux));
    let boot =
        BOOT_MODULES.each_ref().map(|feature| (feature.module, presence(feature, &vmlinux, tree.as_ref())));
    let has = |name| boot.iter().any(|(module, presence)| *module == name && *presence != Presence::Absent);
    Ok(KernelDetails {
        size: vmlinux.len() as u64,
        modules: tree.as_ref().map_or(0, ModuleTree::count),
        firecracker: has("virtio_mmio"),
        qemu: has("virtio_pci") && elf::has_pvh_entry(&vmlinux),
        boot: boot.into(),
        other_features: OTHER_FEATURES
            .map(|(name, option)| (name, other_presence(name, option, tree.as_ref(), config.as_ref())))
            .into(),
    })
}

/// Returns whether the kernel imported into `kernel_dir` supports devices on `bus`.
///
/// With `modules.builtin` this takes a few milliseconds, because the kernel itself is not read.
///
/// # Errors
/// Returns an error if the files cannot be read.
pub fn kernel_supports_bus(kernel_dir: &Path, bus: Bus) -> Result<bool, ImageError> {
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

/// Determines a driver's presence from the modules, `modules.builtin` or the configuration; `None` if unknown.
fn other_presence(
    name: &str,
    option: &str,
    tree: Option<&ModuleTree>,
    config: Option<&Config>,
) -> Option<Presence> {
    if tree.is_some_and(|tree| tree.path(name).is_some()) {
        return Some(Presence::Module);
    }
    let built_in = tree.and_then(|tree| tree.is_builtin(name));
    // The module is missing, so an option set to `m` counts as absent.
    let built_in = built_in.or(config.map(|config| config.get(option) == Some(Choice::BuiltIn)))?;
    Some(if built_in { Presence::BuiltIn } else { Presence::Absent })
}
