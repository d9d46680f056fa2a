//! The kinds of VMMs and accelerators.

use std::fmt;

/// A program that can run a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmKind {
    /// Firecracker; needs KVM.
    Firecracker,
    /// QEMU; uses KVM, or runs slower without.
    Qemu,
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        })
    }
}

/// Accelerator that runs virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation (KVM).
    Kvm,
    /// Software translation (QEMU's TCG).
    Tcg,
}
