//! The programs that can run a VM, and what makes the CPUs run.

use std::fmt;

/// The programs that can run a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmKind {
    /// Firecracker; needs KVM.
    Firecracker,
    /// QEMU; with KVM, or slower without.
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

/// What makes the virtual CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's translation, in software.
    Tcg,
}
