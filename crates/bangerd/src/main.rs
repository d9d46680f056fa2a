//! The daemon that owns VMs.
fn main() {}
