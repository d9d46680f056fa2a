//! Bytes in, verified, turned into disks, kernels and initrds.
