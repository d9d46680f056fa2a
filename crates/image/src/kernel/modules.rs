//! A kernel's module files, by name, and the metadata in them.
//!
//! The tree is laid out as `/lib/modules/<release>`. `depmod`'s output (`modules.dep`) is not needed: packages do not
//! contain it, and each module lists its own dependencies (`.modinfo`, include/linux/module.h of Linux).

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSection};

use super::ModuleError;
use crate::codec::{self, ReadError};

/// Maximum depth of directories; Linux' own tree has 8.
const MAX_DEPTH: usize = 16;

/// Maximum number of files and directories; a distribution's full kernel has 5 000 modules.
pub(crate) const MAX_FILES: usize = 50_000;

/// Maximum size of a decompressed module, in bytes; Debian's largest has 8 MB.
pub(crate) const MAX_MODULE: u64 = 64 << 20;

/// Maximum size of `modules.builtin`, in bytes; real ones have under 10 kB.
const MAX_BUILTIN: u64 = 4 << 20;

/// The modules in a directory, by name. Symlinks are not followed.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    root: PathBuf,
    paths: BTreeMap<String, PathBuf>,
    builtin: Option<HashSet<String>>,
}

impl ModuleTree {
    /// Scans `root` for modules and reads its `modules.builtin`.
    pub(crate) fn scan(root: &Path) -> Result<Self, ModuleError> {
        let mut tree = Self { root: root.to_owned(), paths: BTreeMap::new(), builtin: None };
        for path in walk(root)? {
            if let Some(name) = module_name(&path) {
                tree.insert(name, path);
            }
        }
        let list = root.join("modules.builtin");
        match File::open(&list) {
            Ok(file) => tree.builtin = Some(builtin_names(file, &list)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ModuleError::Read { path: list, source }),
        }
        Ok(tree)
    }

    fn insert(&mut self, name: String, path: PathBuf) {
        // depmod(8): "updates" takes precedence.
        let replaces = path.starts_with(self.root.join("updates"));
        match self.paths.entry(name) {
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                if replaces {
                    entry.insert(path);
                }
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(path);
            }
        }
    }

    /// Returns the file of module `name`, spelled with `-` or `_`.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.paths.get(&normalized(name)).map(PathBuf::as_path)
    }

    /// Returns the number of modules.
    pub(crate) fn count(&self) -> u64 {
        self.paths.len() as u64
    }

    /// Returns whether `name` is built in; `None` without a `modules.builtin`.
    pub(crate) fn is_builtin(&self, name: &str) -> Option<bool> {
        self.builtin.as_ref().map(|names| names.contains(&normalized(name)))
    }
}

/// A module's metadata and its decompressed bytes.
#[derive(Debug)]
pub(crate) struct ModInfo {
    pub(crate) image: Vec<u8>,
    /// Modules that must be loaded first.
    pub(crate) depends: Vec<String>,
    /// Modules or aliases that should be loaded first, if they exist.
    pub(crate) soft_before: Vec<String>,
    /// Release of the kernel that the module was built for.
    pub(crate) release: Option<String>,
}

impl ModInfo {
    /// Reads and decompresses the module at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, ModuleError> {
        let read_error = |source| ModuleError::Read { path: path.to_owned(), source };
        let not_module = |reason| ModuleError::NotModule { path: path.to_owned(), reason };
        let file = File::open(path).map_err(read_error)?;
        let input = codec::decompressed(file)
            .map_err(read_error)?
            .map_err(|_| not_module("its compression is not supported"))?;
        let image = codec::read_limited(input, MAX_MODULE).map_err(|error| match error {
            ReadError::TooLarge => not_module("too large"),
            ReadError::Io(source) => read_error(source),
        })?;
        let mut info =
            Self { image: Vec::new(), depends: Vec::new(), soft_before: Vec::new(), release: None };
        {
            let elf = ElfFile64::<LittleEndian>::parse(&image[..])
                .map_err(|_| not_module("not a 64-bit ELF file"))?;
            let section = elf.section_by_name(".modinfo").ok_or(not_module("no .modinfo section"))?;
            let records = section.data().map_err(|_| not_module("its .modinfo lies outside the file"))?;
            for record in records.split(|b| *b == 0) {
                info.record(&String::from_utf8_lossy(record));
            }
        }
        info.image = image;
        Ok(info)
    }

    fn record(&mut self, record: &str) {
        let Some((key, value)) = record.split_once('=') else { return };
        match key {
            "depends" => {
                self.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(normalized))
            }
            // "pre: a b post: c": modules after "post:" are loaded later, and are not needed to boot.
            "softdep" => {
                let before = value.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                self.soft_before.extend(before.take_while(|word| *word != "post:").map(normalized));
            }
            "vermagic" => self.release = value.split(' ').next().map(str::to_owned),
            _ => {}
        }
    }
}

/// Returns a module's name as the kernel spells it, with `_` instead of `-`.
pub(crate) fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem =
        ["", ".xz", ".zst", ".gz"].iter().find_map(|suffix| file.strip_suffix(suffix)?.strip_suffix(".ko"));
    stem.filter(|stem| !stem.is_empty()).map(normalized)
}

fn builtin_names(file: File, path: &Path) -> Result<HashSet<String>, ModuleError> {
    let bytes = codec::read_limited(file, MAX_BUILTIN).map_err(|error| match error {
        ReadError::TooLarge => ModuleError::TooMuch { what: "bytes in modules.builtin", limit: MAX_BUILTIN },
        ReadError::Io(source) => ModuleError::Read { path: path.to_owned(), source },
    })?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(|line| module_name(Path::new(line.trim()))).collect())
}

/// Returns all regular files under `root`, sorted, without symlinks and special files.
pub(crate) fn walk(root: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let mut files = Vec::new();
    let mut dirs = vec![(root.to_owned(), 0)];
    let mut seen = 0usize;
    while let Some((dir, depth)) = dirs.pop() {
        let read_error = |source| ModuleError::Read { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(read_error)? {
            let entry = entry.map_err(read_error)?;
            seen += 1;
            if seen > MAX_FILES {
                return Err(ModuleError::TooMuch { what: "files", limit: MAX_FILES as u64 });
            }
            let kind = entry.file_type().map_err(read_error)?;
            if kind.is_dir() {
                if depth == MAX_DEPTH {
                    return Err(ModuleError::TooMuch {
                        what: "levels of directories",
                        limit: MAX_DEPTH as u64,
                    });
                }
                dirs.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
