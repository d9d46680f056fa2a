//! Features that a guest kernel must have, and their detection.
//!
//! A feature is a module or built in. Built-in features are read from `modules.builtin` if it exists, else detected
//! by a string that only the driver's source contains.

use memchr::memmem;

use super::KernelError;
use super::modules::ModuleTree;

/// A driver that the boot initrd loads if it is a module.
#[derive(Debug)]
pub(crate) struct Feature {
    /// The module's name, with underscores.
    pub(crate) module: &'static str,
    pub(crate) what: &'static str,
    pub(crate) option: &'static str,
    /// Bytes in the driver's object code. Each use names the Linux source file that contains them.
    signature: &'static [u8],
    /// Whether every VM needs the driver.
    pub(crate) required: bool,
}

#[cfg(test)]
impl Feature {
    pub(crate) fn signature(&self) -> &'static [u8] {
        self.signature
    }
}

/// Drivers of a boot initrd, in load order.
pub(crate) const BOOT_MODULES: [Feature; 8] = [
    Feature {
        module: "virtio_pci",
        what: "virtio over PCI",
        option: "CONFIG_VIRTIO_PCI",
        // drivers/virtio/virtio_pci_common.c: the name of virtio_pci_driver.
        signature: b"virtio-pci\0",
        required: false,
    },
    Feature {
        module: "virtio_mmio",
        what: "virtio over memory-mapped registers",
        option: "CONFIG_VIRTIO_MMIO",
        // drivers/virtio/virtio_mmio.c: the name of virtio_mmio_driver.
        signature: b"virtio-mmio\0",
        required: false,
    },
    Feature {
        module: "virtio_blk",
        what: "virtio disks",
        option: "CONFIG_VIRTIO_BLK",
        // drivers/block/virtio_blk.c: alloc_workqueue("virtio-blk") in virtio_blk_init().
        signature: b"virtio-blk\0",
        required: true,
    },
    Feature {
        module: "ext4",
        what: "ext4",
        option: "CONFIG_EXT4_FS",
        // fs/ext4/super.c: the prefix of __ext4_msg().
        signature: b"EXT4-fs",
        required: true,
    },
    Feature {
        module: "overlay",
        what: "overlayfs",
        option: "CONFIG_OVERLAY_FS",
        // fs/overlayfs/overlayfs.h: pr_fmt, and the messages of super.c before it.
        signature: b"overlayfs: ",
        required: true,
    },
    Feature {
        module: "vmw_vsock_virtio_transport",
        what: "virtio vsock",
        option: "CONFIG_VIRTIO_VSOCKETS",
        // net/vmw_vsock/virtio_transport.c: alloc_workqueue("virtio_vsock") in virtio_vsock_init().
        signature: b"virtio_vsock\0",
        required: true,
    },
    Feature {
        module: "virtio_net",
        what: "virtio network cards",
        option: "CONFIG_VIRTIO_NET",
        // drivers/net/virtio_net.c: virtnet_get_drvinfo() and cpuhp_setup_state_multi().
        signature: b"virtio/net:",
        required: false,
    },
    Feature {
        module: "virtio_rng",
        what: "virtio entropy",
        option: "CONFIG_HW_RANDOM_VIRTIO",
        // drivers/char/hw_random/virtio-rng.c: "virtio_rng.%d" in probe_common().
        signature: b"virtio_rng.%d",
        required: false,
    },
];

/// Drivers that enumerate virtio devices. Each VMM needs one of them.
const BUSES: [&str; 2] = ["virtio_pci", "virtio_mmio"];

/// Presence of a feature in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The feature is a module, and the module exists.
    Module,
    /// The feature is built into the kernel.
    BuiltIn,
    /// The kernel lacks the feature.
    Absent,
}

/// Returns the presence of `feature` in the kernel `vmlinux` with `modules`.
pub(crate) fn presence(feature: &Feature, vmlinux: &[u8], modules: Option<&ModuleTree>) -> Presence {
    if modules.is_some_and(|tree| tree.path(feature.module).is_some()) {
        return Presence::Module;
    }
    let listed = modules.and_then(|tree| tree.is_builtin(feature.module));
    if listed.unwrap_or_else(|| memmem::find(vmlinux, feature.signature).is_some()) {
        Presence::BuiltIn
    } else {
        Presence::Absent
    }
}

/// Rejects a kernel that lacks a feature that every VM needs.
pub(crate) fn require_all(vmlinux: &[u8], modules: Option<&ModuleTree>) -> Result<(), KernelError> {
    let missing = BOOT_MODULES
        .iter()
        .filter(|feature| feature.required)
        .find(|feature| presence(feature, vmlinux, modules) == Presence::Absent);
    if let Some(feature) = missing {
        return Err(KernelError::Missing { what: feature.what, option: feature.option });
    }
    let buses = BOOT_MODULES.iter().filter(|feature| BUSES.contains(&feature.module));
    if buses.map(|bus| presence(bus, vmlinux, modules)).all(|presence| presence == Presence::Absent) {
        return Err(KernelError::Missing {
            what: "virtio transport",
            option: "CONFIG_VIRTIO_MMIO (Firecracker) or CONFIG_VIRTIO_PCI (QEMU)",
        });
    }
    Ok(())
}

/// Returns the release from a kernel's banner (init/version-timestamp.c: "Linux version " UTS_RELEASE " (").
pub(crate) fn release(vmlinux: &[u8]) -> Result<String, KernelError> {
    // Linux limits a release to 64 bytes (__NEW_UTS_LEN).
    const MAX: usize = 64;
    const BANNER: &[u8] = b"Linux version ";
    memmem::find_iter(vmlinux, BANNER)
        .filter_map(|at| {
            let rest = &vmlinux[at + BANNER.len()..];
            let rest = &rest[..rest.len().min(MAX + 1)];
            let release = &rest[..rest.iter().position(|b| *b == b' ')?];
            let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || b".+~_-".contains(b);
            let is_valid = release.first().is_some_and(u8::is_ascii_digit) && release.iter().all(is_allowed);
            is_valid.then(|| String::from_utf8_lossy(release).into_owned())
        })
        .next()
        .ok_or(KernelError::NoRelease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_parsed_from_the_banner() {
        for (text, expected) in [
            (&b"\0Linux version 6.1.0-56-cloud-amd64 (x) #1"[..], Some("6.1.0-56-cloud-amd64")),
            (b"Linux version %s (%s)\0Linux version 5.10.225 (gcc)", Some("5.10.225")),
            (b"Linux version 6.1../../etc (x)", None),
            (b"Linux version 6.1", None),
            (b"Linux version ", None),
            (b"", None),
        ] {
            assert_eq!(release(text).ok().as_deref(), expected);
        }
        assert!(release(&[&b"Linux version "[..], &[b'1'; 80], b" "].concat()).is_err());
    }

    #[test]
    fn the_first_missing_feature_is_named() {
        let all: Vec<u8> = BOOT_MODULES.iter().flat_map(|feature| feature.signature).copied().collect();
        require_all(&all, None).unwrap();
        for feature in BOOT_MODULES.iter().filter(|feature| feature.required) {
            let rest = BOOT_MODULES.iter().filter(|other| other.option != feature.option);
            let rest: Vec<u8> = rest.flat_map(|other| other.signature).copied().collect();
            let error = require_all(&rest, None).unwrap_err().to_string();
            assert!(error.contains(feature.option), "{error}");
        }
        let rest = BOOT_MODULES.iter().filter(|feature| !BUSES.contains(&feature.module));
        let rest: Vec<u8> = rest.flat_map(|feature| feature.signature).copied().collect();
        let error = require_all(&rest, None).unwrap_err().to_string();
        assert!(error.contains("CONFIG_VIRTIO_MMIO") && error.contains("CONFIG_VIRTIO_PCI"), "{error}");
    }
}
