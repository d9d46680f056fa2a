//! A VM's hardware as data in, a process out: Firecracker, QEMU, the KVM probe.
