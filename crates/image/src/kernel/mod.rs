//! Guest kernels: from packages or files to an ELF `vmlinux` and its modules.

mod boot_modules;
mod config;
mod container;
mod details;
mod elf;
mod features;
mod import;
mod modules;
mod parts;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use crate::error::{KernelError, ModuleError};
pub use container::extract_vmlinux;
pub use details::{Bus, KernelDetails, kernel_details, kernel_supports_bus};
pub use features::Presence;
pub use import::{KernelInfo, import_kernel};

pub(crate) use boot_modules::{BootModule, boot_modules};
pub(crate) use elf::{Linkage, program};
pub(crate) use import::import_kernel_files;
pub(crate) use modules::ModuleTree;
