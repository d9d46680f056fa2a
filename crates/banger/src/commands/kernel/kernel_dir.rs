//! Finds the kernel, its modules and its build configuration in a directory.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Paths of a kernel's parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KernelFiles {
    pub(super) kernel: PathBuf,
    pub(super) modules: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
}

/// Error for a directory that cannot be imported as a kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelDirError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no kernel in {}: no vmlinuz, vmlinux, bzImage or Image, with or without -RELEASE, in it, \
             in boot or in lib/modules/RELEASE", .0.display())]
    NoKernel(PathBuf),
    #[error("there are several kernels in {}: {}", dir.display(), names(paths))]
    ManyKernels { dir: PathBuf, paths: Vec<PathBuf> },
    #[error("there are several module directories in {}: {}", dir.display(), names(paths))]
    ManyModules { dir: PathBuf, paths: Vec<PathBuf> },
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// File names of kernels, without a dash and the release.
const KERNELS: [&str; 4] = ["vmlinuz", "vmlinux", "bzImage", "Image"];

/// Finds the parts of a kernel.
pub(super) fn find_kernel(dir: &Path) -> Result<KernelFiles, KernelDirError> {
    let releases = releases(dir)?;
    let kernels_in = |dir: &PathBuf| files_named(dir, &KERNELS);
    let kernel_dirs = [dir.to_owned(), dir.join("boot")];
    let mut kernels = distinct(kernel_dirs.iter().chain(&releases).map(kernels_in))?;
    let kernel = match kernels.len() {
        0 => return Err(KernelDirError::NoKernel(dir.to_owned())),
        1 => kernels.remove(0),
        _ => return Err(KernelDirError::ManyKernels { dir: dir.to_owned(), paths: kernels }),
    };
    let modules = modules(dir, &kernel, releases)?;
    let mut config_dirs: Vec<_> = kernel.parent().map(Path::to_owned).into_iter().collect();
    config_dirs.extend(modules.clone());
    let mut configs = distinct(config_dirs.iter().map(|dir| files_named(dir, &["config"])))?;
    // With several, each could be another kernel's.
    let config = if configs.len() == 1 { configs.pop() } else { None };
    Ok(KernelFiles { kernel, modules, config })
}

/// Returns the modules that belong to `kernel`.
fn modules(dir: &Path, kernel: &Path, releases: Vec<PathBuf>) -> Result<Option<PathBuf>, KernelDirError> {
    let modules_dir = dir.join("modules");
    let mut paths: Vec<_> =
        [dir.to_owned(), modules_dir].into_iter().filter(|path| has_modules(path)).collect();
    paths.extend(releases);
    if paths.len() > 1 {
        // The directory of the kernel, or its release, decides which modules are its own.
        let name = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let release = name.split_once('-').map(|(_, release)| release);
        let is_own = |path: &&PathBuf| {
            kernel.parent() == Some(path) || path.file_name().is_some_and(|name| name.to_str() == release)
        };
        if let Some(own) = paths.iter().find(is_own) {
            return Ok(Some(own.clone()));
        }
        return Err(KernelDirError::ManyModules { dir: dir.to_owned(), paths });
    }
    Ok(paths.pop())
}

/// Returns whether a directory is like /lib/modules/RELEASE.
fn has_modules(dir: &Path) -> bool {
    dir.join("kernel").is_dir()
        || ["modules.builtin", "modules.dep", "modules.order"].iter().any(|name| dir.join(name).is_file())
}

/// Returns the module directories in `lib/modules` and `usr/lib/modules`, which may be the same directory.
fn releases(dir: &Path) -> Result<Vec<PathBuf>, KernelDirError> {
    let modules_in =
        |path: PathBuf| Ok(entries(&path)?.into_iter().filter(|path| has_modules(path)).collect());
    distinct(["lib/modules", "usr/lib/modules"].iter().map(|path| modules_in(dir.join(path))))
}

/// Returns the files in a directory with one of these names, alone or followed by a dash and more.
fn files_named(dir: &Path, names: &[&str]) -> Result<Vec<PathBuf>, KernelDirError> {
    let matches = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.split_once('-').map_or(name.as_str(), |(stem, _)| stem);
        names.contains(&stem) && path.is_file()
    };
    Ok(entries(dir)?.into_iter().filter(matches).collect())
}

/// Returns the entries of a directory in order; none if it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelDirError> {
    let failed = |source| KernelDirError::Read { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => Err(error),
    };
    let mut entries = entries.map_err(failed)?;
    entries.sort();
    Ok(entries)
}

/// Returns each file or directory once, even if several links lead to it.
fn distinct(
    paths: impl Iterator<Item = Result<Vec<PathBuf>, KernelDirError>>,
) -> Result<Vec<PathBuf>, KernelDirError> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for path in paths.collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let real = path.canonicalize();
        if seen.insert(real.unwrap_or_else(|_| path.clone())) {
            all.push(path);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Creates a directory with these files; returns the relative paths that are found in it.
    fn find(files: &[&str]) -> Result<(String, Option<String>, Option<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let (file, target) = file.split_once(" -> ").map_or((*file, None), |(file, to)| (file, Some(to)));
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, path).unwrap(),
                None => fs::write(path, b"").unwrap(),
            }
        }
        let from = |path: PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
        let root = dir.path().display().to_string();
        find_kernel(dir.path())
            .map(|files| (from(files.kernel), files.modules.map(from), files.config.map(from)))
            .map_err(|error| error.to_string().replace(&root, "DIR"))
    }

    fn expected(
        kernel: &str,
        modules: Option<&str>,
        config: Option<&str>,
    ) -> Result<(String, Option<String>, Option<String>), String> {
        Ok((kernel.to_owned(), modules.map(str::to_owned), config.map(str::to_owned)))
    }

    #[test]
    fn kernels_are_found_in_each_supported_directory_layout() {
        assert_eq!(find(&["vmlinux"]), expected("vmlinux", None, None));
        assert_eq!(find(&["bzImage", "modules/kernel/a.ko"]), expected("bzImage", Some("modules"), None));
        // Like /lib/modules/RELEASE itself.
        let fedora = ["vmlinuz", "config", "kernel/fs/ext4.ko.xz", "modules.builtin", "build -> /usr/src"];
        assert_eq!(find(&fedora), expected("vmlinuz", Some(""), Some("config")));
        // Like `make modules_install INSTALL_MOD_PATH=DIR` with a boot directory beside it.
        let install =
            ["boot/vmlinuz-6.1", "boot/config-6.1", "boot/System.map-6.1", "lib/modules/6.1/modules.dep"];
        assert_eq!(
            find(&install),
            expected("boot/vmlinuz-6.1", Some("lib/modules/6.1"), Some("boot/config-6.1"))
        );
        let arch = ["usr/lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/kernel/a.ko", "lib -> usr/lib"];
        assert_eq!(find(&arch), expected("lib/modules/6.1/vmlinuz", Some("lib/modules/6.1"), None));
        let links = ["vmlinuz -> boot/vmlinuz-6.1", "boot/vmlinuz-6.1"];
        assert_eq!(find(&links), expected("vmlinuz", None, None));
    }

    #[test]
    fn modules_are_selected_by_the_release_in_the_kernels_name() {
        let two = ["vmlinuz-6.2", "lib/modules/6.1/modules.dep", "lib/modules/6.2/modules.dep"];
        assert_eq!(find(&two), expected("vmlinuz-6.2", Some("lib/modules/6.2"), None));
        let unclear = ["vmlinuz", "lib/modules/6.1/modules.dep", "lib/modules/6.2/modules.dep"];
        let several = "there are several module directories in DIR: DIR/lib/modules/6.1, DIR/lib/modules/6.2";
        assert_eq!(find(&unclear), Err(several.to_owned()));
    }

    #[test]
    fn missing_or_several_kernels_are_rejected_and_several_configs_ignored() {
        assert!(find(&["kernel/a.ko", "modules.dep"]).unwrap_err().starts_with("there is no kernel in DIR"));
        let both = find(&["vmlinux", "vmlinuz"]).unwrap_err();
        assert_eq!(both, "there are several kernels in DIR: DIR/vmlinux, DIR/vmlinuz");
        assert_eq!(find(&["vmlinuz", "config-1", "config-2"]), expected("vmlinuz", None, None));
    }
}
