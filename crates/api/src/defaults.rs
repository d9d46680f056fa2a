//! Built-in defaults of VMs.

use crate::{Period, Size};

/// Built-in defaults. Those that depend on the host are functions.
#[derive(Debug, Clone, Copy)]
pub struct Defaults;

impl Defaults {
    /// The image.
    pub const IMAGE: &str = "debian-bookworm";
    /// The kernel of images without a preference.
    pub const KERNEL: &str = "debian-cloud";
    /// Size of the system overlay and of the work disk.
    pub const DISK_SIZE: Size = Size::gib(8);
    /// Timeout for an orderly power-off.
    pub const STOP_TIMEOUT: Period = Period::seconds(10);
    /// Timeout for the first answer of a guest's agent.
    pub const READY_TIMEOUT: Period = Period::seconds(90);
    /// Port of the reverse proxy.
    pub const PROXY_PORT: u16 = 7788;
    /// Sampling interval for the resource use of running VMs.
    pub const STATS_INTERVAL: Period = Period::seconds(10);

    /// Returns the virtual CPUs for a host with `cpus`: a quarter of them, from 1 to 4; 2 if unknown.
    pub fn vcpu(cpus: Option<usize>) -> u32 {
        cpus.map_or(2, |cpus| u32::try_from(cpus / 4).unwrap_or(4).clamp(1, 4))
    }

    /// Returns the memory for a host with `memory`: an eighth of it, from 512 MiB to 8 GiB; 2 GiB if unknown.
    pub fn memory(memory: Option<Size>) -> Size {
        let eighth = |memory: Size| Size::mib(memory.as_mib() / 8).clamp(Size::mib(512), Size::gib(8));
        memory.map_or(Size::gib(2), eighth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_vcpus_and_memory_scale_with_the_host() {
        assert_eq!([None, Some(2), Some(12), Some(64)].map(Defaults::vcpu), [2, 1, 3, 4]);
        let memory = |gib| Defaults::memory(Some(Size::gib(gib)));
        assert_eq!((memory(2), memory(16), memory(512)), (Size::mib(512), Size::gib(2), Size::gib(8)));
        assert_eq!(Defaults::memory(None), Size::gib(2));
    }
}
