//! The daemon's domain: VMs, images, kernels, the store.
