//! Kernel interfaces: the one crate with unsafe code.
