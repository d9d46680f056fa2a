//! What a VM gets when nobody says otherwise.

use crate::{Period, Size};

/// Built-in defaults. Those that depend on the host are functions of it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults;

impl Defaults {
    /// The image.
    pub const IMAGE: &str = "debian-bookworm";
    /// The kernel of an image that prefers none.
    pub const KERNEL: &str = "debian-cloud";
    /// Size of the system overlay and of the work disk.
    pub const DISK: Size = Size::gib(8);
    /// How long an orderly power-off may take.
    pub const STOP: Period = Period::seconds(10);
    /// How long a guest may take until its agent has answered.
    pub const READY: Period = Period::seconds(90);
    /// How often what running VMs use is looked at.
    pub const STATS: Period = Period::seconds(10);

    /// Virtual CPUs on a host with `cpus`: a quarter of them, from 1 to 4; 2 where they cannot be told.
    pub fn vcpu(cpus: Option<usize>) -> u32 {
        cpus.map_or(2, |cpus| u32::try_from(cpus / 4).unwrap_or(4).clamp(1, 4))
    }

    /// Memory on a host with `memory`: an eighth of it, from 512 MiB to 8 GiB; 2 GiB where it cannot be told.
    pub fn memory(memory: Option<Size>) -> Size {
        let eighth = |memory: Size| Size::mib(memory.as_mib() / 8).clamp(Size::mib(512), Size::gib(8));
        memory.map_or(Size::gib(2), eighth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_gets_a_fair_share_of_its_host() {
        assert_eq!([None, Some(2), Some(12), Some(64)].map(Defaults::vcpu), [2, 1, 3, 4]);
        let of = |gib| Defaults::memory(Some(Size::gib(gib)));
        assert_eq!((of(2), of(16), of(512)), (Size::mib(512), Size::gib(2), Size::gib(8)));
        assert_eq!(Defaults::memory(None), Size::gib(2));
    }
}
