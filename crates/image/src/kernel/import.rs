//! Imports kernels. All input formats pass the same checks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::boot_modules::boot_modules;
use super::container::extract_vmlinux;
use super::features::{self, BOOT_MODULES, Presence, presence};
use super::modules::{ModInfo, ModuleTree};
use super::parts::Parts;
use super::store::Destination;
use super::{ModuleError, elf};
use crate::error::IoContext;
use crate::progress::{self, ProgressReader, or_cancelled};
use crate::{ImageError, Progress};

/// Properties of an imported kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// The release, as `uname -r` prints it in the guest.
    pub release: String,
    /// Format of the input: `deb`, `rpm`, or `files`.
    pub source: &'static str,
    /// Whether there is a `modules` directory beside `vmlinux`.
    pub modules: bool,
    /// Whether the kernel has a PVH entry point, with which QEMU boots an uncompressed kernel.
    pub pvh: bool,
    /// Whether the kernel supports virtio over PCI, as QEMU needs.
    pub virtio_pci: bool,
    /// Whether the kernel supports virtio over memory-mapped registers, as Firecracker needs.
    pub virtio_mmio: bool,
    /// Size of `vmlinux` in bytes.
    pub size: u64,
}

/// Imports the kernel in `input` into the directory `dest`, as `vmlinux` and, if present, `modules` and `config`.
///
/// The content of `input` decides its format:
/// - a Debian package or an RPM, with the kernel in `/boot` or `/lib/modules/<release>` and its modules in the
///   latter;
/// - a vmlinuz (bzImage) or a vmlinux, compressed or not;
/// - a tar with `kernel` (a vmlinuz or a vmlinux), its modules as `modules/...`, laid out as in
///   `/lib/modules/<release>`, its build configuration as `config`, and packages or a kernel in `files/...`.
///
/// # Errors
/// Returns an error if the format is unknown, the kernel or its modules cannot be used, or `dest` already has a
/// kernel. Files that the import wrote to `dest` are then removed.
pub fn import_kernel(
    input: impl Read,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    import(dest, progress, |parts| {
        parts.read_input("the kernel", ProgressReader::new(input, None, progress), false)
    })
}

/// Imports a kernel from several files that together contain it; else as [`import_kernel`].
pub(crate) fn import_kernel_files(
    files: Vec<(PathBuf, File)>,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    import(dest, progress, |parts| {
        files.into_iter().try_for_each(|(path, file)| {
            let total = file.metadata().during("read", &path)?.len();
            let file = ProgressReader::new(file, Some(total), progress);
            parts.read_input(&path.display().to_string(), file, false)
        })
    })
}

/// Creates the directory, calls `read` to read the kernel's parts, and checks them.
fn import(
    dest: &Path,
    progress: &dyn Progress,
    read: impl FnOnce(&mut Parts<'_, '_>) -> Result<(), ImageError>,
) -> Result<KernelInfo, ImageError> {
    progress.stage("read the kernel");
    let mut destination = Destination::new(dest)?;
    let mut parts = Parts::new(&mut destination, progress);
    let kernel_and_source = read(&mut parts).and_then(|()| {
        let kernel = parts.kernel.take().ok_or(ImageError::NoKernel)?;
        Ok((kernel, parts.source))
    });
    let result =
        kernel_and_source.and_then(|(kernel, source)| finish(&kernel, source, destination, progress));
    or_cancelled(progress, result)
}

/// Checks a kernel and the modules already in `destination`, and writes the kernel there.
fn finish(
    image: &[u8],
    source: &'static str,
    destination: Destination<'_>,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    progress::check(progress)?;
    progress.stage("check the kernel");
    let vmlinux = extract_vmlinux(image).map_err(ImageError::Kernel)?;
    let release = features::release(&vmlinux).map_err(ImageError::Kernel)?;
    let modules_dir = destination.modules();
    let tree = modules_dir
        .is_dir()
        .then(|| ModuleTree::scan(&modules_dir))
        .transpose()
        .map_err(ImageError::Modules)?;
    features::require_all(&vmlinux, tree.as_ref()).map_err(ImageError::Kernel)?;
    if let Some(tree) = &tree {
        check_modules(tree, &vmlinux, &release).map_err(ImageError::Modules)?;
    }
    progress::check(progress)?;
    destination.write_kernel(&vmlinux)?;
    let has = |name| {
        let feature = BOOT_MODULES.iter().find(|feature| feature.module == name);
        feature.is_some_and(|feature| presence(feature, &vmlinux, tree.as_ref()) != Presence::Absent)
    };
    let info = KernelInfo {
        source,
        pvh: elf::has_pvh_entry(&vmlinux),
        virtio_pci: has("virtio_pci"),
        virtio_mmio: has("virtio_mmio"),
        modules: tree.is_some(),
        size: vmlinux.len() as u64,
        release,
    };
    destination.commit();
    Ok(info)
}

/// Rejects modules that this kernel would not load, or whose dependencies are missing.
fn check_modules(tree: &ModuleTree, vmlinux: &[u8], kernel: &str) -> Result<(), ModuleError> {
    for path in BOOT_MODULES.iter().filter_map(|feature| tree.path(feature.module)) {
        let modules = ModInfo::read(path)?.release;
        let modules =
            modules.ok_or(ModuleError::NotModule { path: path.to_owned(), reason: "no vermagic" })?;
        if modules != kernel {
            return Err(ModuleError::Mismatch { modules, kernel: kernel.to_owned() });
        }
    }
    boot_modules(tree, vmlinux).map(drop)
}
