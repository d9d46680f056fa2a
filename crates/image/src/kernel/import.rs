//! Where kernels come from: a Debian package, files, the running host. All end in the same checks.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::container::{MAX_VMLINUX, extract_vmlinux};
use super::features::{self, BOOT_MODULES, Presence, presence};
use super::modules::{ModInfo, ModuleTree, walk};
use super::store::Destination;
use super::{KernelError, ModuleError, elf};
use crate::archive::{ArchiveError, MemberKind, TarReader, ar};
use crate::codec::{self, ReadError};
use crate::error::{IoContext, PackageError};
use crate::progress::{self, Watched};
use crate::{ImageError, Progress};

/// What an imported kernel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its release, as `uname -r` in the guest will print it.
    pub release: String,
    /// Whether there is a `modules` folder beside `vmlinux`.
    pub modules: bool,
    /// Whether it has a PVH entry point, through which QEMU boots an uncompressed kernel.
    pub pvh: bool,
    /// Whether it finds devices over PCI, as QEMU's.
    pub virtio_pci: bool,
    /// Whether it finds devices over memory-mapped registers, as Firecracker's.
    pub virtio_mmio: bool,
    /// Size of `vmlinux` in bytes.
    pub size: u64,
}

/// Imports the kernel of a Debian package (`linux-image-*`): `vmlinux` and `modules` in the fresh folder `dest`.
///
/// # Errors
/// When the package, its kernel or its modules can't be used, or `dest` is not empty; then nothing is left in `dest`.
pub fn import_kernel_deb(deb: &Path, dest: &Path, progress: &dyn Progress) -> Result<KernelInfo, ImageError> {
    progress.stage("unpack the kernel package");
    let file = File::open(deb).during("open", deb)?;
    let length = file.metadata().during("read", deb)?.len();
    let mut destination = Destination::new(dest)?;
    let package = |source| ImageError::Package { path: deb.to_owned(), source };
    let input = Watched::new(BufReader::with_capacity(256 << 10, file), Some(length), progress);
    let image = match unpack_deb(input, &mut destination, progress) {
        Ok(image) => image,
        Err(_) if progress.cancelled() => return Err(ImageError::Cancelled),
        Err(DebError::Image(error)) => return Err(error),
        Err(DebError::Package(source)) => return Err(package(source)),
    };
    finish(&image, deb, destination, progress)
}

/// Imports a `vmlinuz` or `vmlinux`, and its modules if `modules` names their folder (as `/lib/modules/<release>`).
///
/// # Errors
/// When the kernel or its modules can't be used, or `dest` is not empty; then nothing is left in `dest`.
pub fn import_kernel_files(
    image: &Path,
    modules: Option<&Path>,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    progress.stage("read the kernel");
    let bytes = read_kernel(File::open(image).during("open", image)?, image)?;
    let mut destination = Destination::new(dest)?;
    if let Some(folder) = modules {
        progress.stage("copy the kernel's modules");
        copy_modules(folder, &mut destination, progress)?;
    }
    finish(&bytes, image, destination, progress)
}

/// Imports the kernel that runs this host, with its modules.
///
/// # Errors
/// When its file is not where distributions put it or can't be read (some leave that to root), or can't be used.
pub fn import_kernel_host(dest: &Path, progress: &dyn Progress) -> Result<KernelInfo, ImageError> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let modules = PathBuf::from("/lib/modules").join(&*release);
    let boot = PathBuf::from(format!("/boot/vmlinuz-{release}"));
    let beside = modules.join("vmlinuz");
    let image = if !boot.exists() && beside.exists() { beside } else { boot };
    let modules = modules.is_dir().then_some(modules);
    import_kernel_files(&image, modules.as_deref(), dest, progress)
}

fn read_kernel(input: impl Read, path: &Path) -> Result<Vec<u8>, ImageError> {
    codec::read_limited(input, MAX_VMLINUX).map_err(|error| match error {
        ReadError::TooLarge => {
            ImageError::Kernel { path: path.to_owned(), source: KernelError::TooLarge { limit: MAX_VMLINUX } }
        }
        ReadError::Io(source) => ImageError::Io { operation: "read", path: path.to_owned(), source },
    })
}

/// Checks a kernel and the modules already in `destination`, and writes it there.
fn finish(
    image: &[u8],
    path: &Path,
    destination: Destination<'_>,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    let kernel = |source| ImageError::Kernel { path: path.to_owned(), source };
    progress::check(progress)?;
    progress.stage("check the kernel");
    let vmlinux = extract_vmlinux(image).map_err(kernel)?;
    let release = features::release(&vmlinux).map_err(kernel)?;
    let folder = destination.modules();
    let module = |source| ImageError::Modules { path: folder.clone(), source };
    let tree = folder.is_dir().then(|| ModuleTree::scan(&folder)).transpose().map_err(module)?;
    features::require_all(&vmlinux, tree.as_ref()).map_err(kernel)?;
    if let Some(tree) = &tree {
        check_release(tree, &release).map_err(module)?;
    }
    progress::check(progress)?;
    destination.write_kernel(&vmlinux)?;
    let has = |name| {
        let feature = BOOT_MODULES.iter().find(|feature| feature.module == name);
        feature.is_some_and(|feature| presence(feature, &vmlinux, tree.as_ref()) != Presence::Absent)
    };
    let info = KernelInfo {
        pvh: elf::has_pvh_entry(&vmlinux),
        virtio_pci: has("virtio_pci"),
        virtio_mmio: has("virtio_mmio"),
        modules: tree.is_some(),
        size: vmlinux.len() as u64,
        release,
    };
    destination.keep();
    Ok(info)
}

/// Refuses modules that this kernel would not load.
fn check_release(tree: &ModuleTree, kernel: &str) -> Result<(), ModuleError> {
    for path in BOOT_MODULES.iter().filter_map(|feature| tree.path(feature.module)) {
        let modules = ModInfo::read(path)?.release;
        let modules =
            modules.ok_or(ModuleError::NotModule { path: path.to_owned(), reason: "no vermagic" })?;
        if modules != kernel {
            return Err(ModuleError::Mismatch { modules, kernel: kernel.to_owned() });
        }
    }
    Ok(())
}

fn copy_modules(
    folder: &Path,
    destination: &mut Destination<'_>,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let files = walk(folder).map_err(|source| ImageError::Modules { path: folder.to_owned(), source })?;
    for path in files {
        progress::check(progress)?;
        let Ok(relative) = path.strip_prefix(folder) else { continue };
        let file = File::open(&path).during("open", &path)?;
        destination.add_module_file(relative, file)?;
    }
    Ok(())
}

enum DebError {
    Package(PackageError),
    Image(ImageError),
}

impl From<ArchiveError> for DebError {
    fn from(error: ArchiveError) -> Self {
        DebError::Package(PackageError::Archive(error))
    }
}

/// Streams a package once: the kernel is returned, its modules go to `destination`.
fn unpack_deb(
    input: impl Read,
    destination: &mut Destination<'_>,
    progress: &dyn Progress,
) -> Result<Vec<u8>, DebError> {
    let data = ar::member(input, "data.tar").map_err(DebError::Package)?;
    let read = |error: io::Error| DebError::Package(PackageError::Read(error));
    let data = codec::unpacked(data).map_err(read)?.map_err(|compression| {
        DebError::Image(ImageError::Compression { what: "the package's data.tar".to_owned(), compression })
    })?;
    let mut tar = TarReader::stream(data);
    let mut kernel = None;
    while let Some(member) = tar.next()? {
        progress::check(progress).map_err(DebError::Image)?;
        let MemberKind::File { size, extents } = &member.kind else { continue };
        let path = member.path.trim_start_matches("./").trim_start_matches('/');
        let sparse = extents.iter().map(|extent| extent.length).sum::<u64>() != *size;
        if let Some(name) = path.strip_prefix("boot/")
            && (name.starts_with("vmlinuz-") || name.starts_with("vmlinux-"))
        {
            if kernel.is_some() {
                return Err(DebError::Package(PackageError::ManyKernels));
            }
            kernel = Some(deb_kernel(tar.data(), *size, sparse)?);
        } else if let Some(relative) = module_path(path)
            && !sparse
        {
            destination.add_module_file(relative, tar.data()).map_err(DebError::Image)?;
        }
    }
    kernel.ok_or(DebError::Package(PackageError::NoKernel))
}

fn deb_kernel(data: impl Read, size: u64, sparse: bool) -> Result<Vec<u8>, DebError> {
    let limit = MAX_VMLINUX;
    if size > limit || sparse {
        return Err(DebError::Package(PackageError::TooLarge { what: "the kernel".to_owned(), limit }));
    }
    match codec::read_limited(data, limit) {
        Ok(bytes) if bytes.len() as u64 == size => Ok(bytes),
        Ok(_) | Err(ReadError::TooLarge) => Err(DebError::Package(PackageError::Truncated)),
        Err(ReadError::Io(source)) => Err(DebError::Package(PackageError::Read(source))),
    }
}

/// The path below `lib/modules/<release>` of a file there that is a module or a list of modules.
fn module_path(path: &str) -> Option<&Path> {
    let below = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let (_, relative) = below.split_once('/')?;
    let name = relative.rsplit('/').next()?;
    (name.contains(".ko") || name.starts_with("modules.")).then(|| Path::new(relative))
}
