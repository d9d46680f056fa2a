//! Bytes in, verified, turned into disks, kernels and initrds.
//!
//! Everything that comes in (archives, packages, kernels, modules) is hostile until checked: sizes are capped, names
//! and offsets are checked before use, and no archive is ever unpacked by path onto the host's file system. The crate is
//! synchronous: the daemon calls it from threads of its own.

mod archive;
mod codec;
mod error;
mod initrd;
mod kernel;
mod progress;
mod publish;

pub use archive::{ArchiveError, EntryProblem};
pub use error::ImageError;
pub use initrd::{InitrdInfo, build_initrd};
pub use kernel::{
    KernelError, KernelInfo, ModuleError, extract_vmlinux, import_kernel_deb, import_kernel_files,
    import_kernel_host,
};
pub use progress::{Progress, Silent};
