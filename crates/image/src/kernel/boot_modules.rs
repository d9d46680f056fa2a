//! Selects the modules needed at boot, in an order that loads dependencies first.

use std::collections::HashSet;
use std::path::Path;

use memchr::memmem;

use super::features::{BOOT_MODULES, Presence, presence};
use super::modules::{ModInfo, ModuleTree};
use crate::error::ModuleError;

/// Maximum depth of a chain of dependencies; the longest of the boot modules has 4.
const MAX_DEPTH: usize = 32;

/// Algorithm names used by `softdep`, with the modules that implement them.
///
/// Source: `MODULE_ALIAS_CRYPTO` in Linux' crypto/ and arch/x86/crypto/. The guest has no `modprobe` to resolve
/// aliases, so they are resolved here.
const ALGORITHMS: [(&str, &[&str]); 2] =
    [("crc32c", &["crc32c_generic", "crc32c_intel"]), ("crc16", &["crc16"])];

/// A module to load.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BootModule {
    /// The module's name, with underscores.
    pub(crate) name: String,
    /// The module's file, decompressed.
    pub(crate) image: Vec<u8>,
}

/// Returns the modules of `tree` needed at boot, in load order.
pub(crate) fn boot_modules(tree: &ModuleTree, vmlinux: &[u8]) -> Result<Vec<BootModule>, ModuleError> {
    let mut resolver =
        Resolver { tree, vmlinux, done: HashSet::new(), in_progress: Vec::new(), order: Vec::new() };
    for feature in &BOOT_MODULES {
        if presence(feature, vmlinux, Some(tree)) == Presence::Module {
            resolver.add(feature.module, None)?;
        }
    }
    Ok(resolver.order)
}

struct Resolver<'a> {
    tree: &'a ModuleTree,
    vmlinux: &'a [u8],
    done: HashSet<String>,
    /// The chain of modules being resolved.
    in_progress: Vec<String>,
    order: Vec<BootModule>,
}

impl Resolver<'_> {
    fn add(&mut self, name: &str, required_by: Option<&str>) -> Result<(), ModuleError> {
        if self.done.contains(name) {
            return Ok(());
        }
        if self.in_progress.iter().any(|in_progress| in_progress == name)
            || self.in_progress.len() == MAX_DEPTH
        {
            return Err(ModuleError::DependencyCycle { module: name.to_owned() });
        }
        let Some(path) = self.tree.path(name).map(Path::to_owned) else {
            return match required_by {
                Some(module) if !self.is_builtin(name) => {
                    Err(ModuleError::Dependency { module: module.to_owned(), dependency: name.to_owned() })
                }
                _ => Ok(()),
            };
        };
        let info = ModInfo::read(&path)?;
        self.in_progress.push(name.to_owned());
        for soft in &info.soft_before {
            self.add_soft(soft)?;
        }
        for dependency in &info.depends {
            self.add(dependency, Some(name))?;
        }
        self.in_progress.pop();
        self.done.insert(name.to_owned());
        self.order.push(BootModule { name: name.to_owned(), image: info.image });
        Ok(())
    }

    /// Adds a soft dependency if it exists; a missing one is not an error.
    fn add_soft(&mut self, name: &str) -> Result<(), ModuleError> {
        let algorithm = ALGORITHMS.iter().find(|(alias, _)| *alias == name).map(|(_, modules)| *modules);
        for module in algorithm.unwrap_or(&[name]) {
            if !self.in_progress.iter().any(|in_progress| in_progress == module) {
                self.add(module, None)?;
            }
        }
        Ok(())
    }

    /// Returns whether `name` is built in. Without `modules.builtin`, searches the kernel's symbols and parameters
    /// for it.
    fn is_builtin(&self, name: &str) -> bool {
        self.tree.is_builtin(name).unwrap_or_else(|| memmem::find(self.vmlinux, name.as_bytes()).is_some())
    }
}
