//! Guest kernels: from packages or files to an ELF `vmlinux` and its modules.

mod config;
mod container;
mod details;
mod elf;
mod error;
mod features;
mod import;
mod modules;
mod parts;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use container::extract_vmlinux;
pub use details::{Bus, KernelDetails, kernel_details, kernel_finds};
pub use error::{KernelError, ModuleError};
pub use features::Presence;
pub use import::{KernelInfo, import_kernel};

pub(crate) use elf::{Program, program};
pub(crate) use features::{BOOT_MODULES, presence};
pub(crate) use import::import_kernel_files;
pub(crate) use modules::{ModInfo, ModuleTree};
