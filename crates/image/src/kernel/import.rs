//! Where kernels come from: a Debian package, or a tar of files. Both end in the same checks.

use std::io::Read;
use std::path::Path;

use super::container::{MAX_VMLINUX, extract_vmlinux};
use super::features::{self, BOOT_MODULES, Presence, presence};
use super::modules::{MAX_MODULE, ModInfo, ModuleTree};
use super::store::Destination;
use super::{KernelError, ModuleError, elf};
use crate::archive::{ArchiveError, Member, MemberKind, TarReader, ar};
use crate::codec::{self, ReadError};
use crate::error::PackageError;
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

/// Imports the kernel of a Debian package (`linux-image-*`): `vmlinux` and `modules` in the folder `dest`.
///
/// # Errors
/// When the package, its kernel or its modules can't be used, or `dest` has a kernel; then nothing is left in `dest`.
pub fn import_kernel_deb(
    deb: impl Read,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    watched(dest, progress, "unpack the kernel package", |destination| {
        let data = ar::member(Watched::new(deb, None, progress), "data.tar").map_err(ImageError::Package)?;
        let data = codec::unpacked(data).map_err(|error| ImageError::Package(PackageError::Read(error)))?;
        let data = data.map_err(|compression| ImageError::Compression {
            what: "the package's data.tar".to_owned(),
            compression,
        })?;
        unpack(data, &PACKAGE, destination, progress)
    })
}

/// Imports the kernel of a plain tar: `kernel` (a vmlinuz or vmlinux), and its modules as `modules/...`, laid out as in
/// `/lib/modules/<release>`. Makes `vmlinux` and `modules` in the folder `dest`.
///
/// # Errors
/// When the archive holds anything else, the kernel or its modules can't be used, or `dest` has a kernel; then nothing
/// is left in `dest`.
pub fn import_kernel_tar(
    tar: impl Read,
    dest: &Path,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    watched(dest, progress, "read the kernel", |destination| {
        unpack(Watched::new(tar, None, progress), &FILES, destination, progress)
    })
}

/// Makes the folder, has `unpack` fill it and return the kernel, and checks both.
fn watched(
    dest: &Path,
    progress: &dyn Progress,
    stage: &str,
    unpack: impl FnOnce(&mut Destination<'_>) -> Result<Vec<u8>, ImageError>,
) -> Result<KernelInfo, ImageError> {
    progress.stage(stage);
    let mut destination = Destination::new(dest)?;
    unpack(&mut destination)
        .and_then(|kernel| finish(&kernel, destination, progress))
        // Whatever a stopped input makes of the import, the reason is that it was stopped.
        .map_err(|error| if progress.cancelled() { ImageError::Cancelled } else { error })
}

/// Checks a kernel and the modules already in `destination`, and writes it there.
fn finish(
    image: &[u8],
    destination: Destination<'_>,
    progress: &dyn Progress,
) -> Result<KernelInfo, ImageError> {
    progress::check(progress)?;
    progress.stage("check the kernel");
    let vmlinux = extract_vmlinux(image).map_err(ImageError::Kernel)?;
    let release = features::release(&vmlinux).map_err(ImageError::Kernel)?;
    let folder = destination.modules();
    let tree = folder.is_dir().then(|| ModuleTree::scan(&folder)).transpose().map_err(ImageError::Modules)?;
    features::require_all(&vmlinux, tree.as_ref()).map_err(ImageError::Kernel)?;
    if let Some(tree) = &tree {
        check_release(tree, &release).map_err(ImageError::Modules)?;
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

/// What a file of an archive is to the import.
enum Part<'a> {
    Kernel,
    /// A file of the modules' tree, with its path there.
    Module(&'a Path),
    Ignored,
}

/// A kind of archive that kernels come in.
struct Packing {
    /// What an entry is, or why there must be none such.
    part: fn(&Member) -> Result<Part<'_>, &'static str>,
    archive: fn(ArchiveError) -> ImageError,
    no_kernel: fn() -> ImageError,
    many_kernels: fn() -> ImageError,
}

const PACKAGE: Packing = Packing {
    part: |member| {
        let path = plain(&member.path);
        Ok(match member.kind {
            MemberKind::File { .. } if is_boot_kernel(path) => Part::Kernel,
            MemberKind::File { .. } => {
                let below = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/");
                below.and_then(|path| path.split_once('/')).map_or(Part::Ignored, |(_, path)| module(path))
            }
            _ => Part::Ignored,
        })
    },
    archive: |error| ImageError::Package(PackageError::Archive(error)),
    no_kernel: || ImageError::Package(PackageError::NoKernel),
    many_kernels: || ImageError::Package(PackageError::ManyKernels),
};

const FILES: Packing = Packing {
    part: |member| {
        let path = plain(&member.path);
        let below = path.strip_prefix("modules/");
        match (&member.kind, path, below) {
            (MemberKind::File { .. }, "kernel", _) => Ok(Part::Kernel),
            (_, "kernel", _) => Err("is not a file"),
            (MemberKind::File { .. }, _, Some(path)) => Ok(module(path)),
            // `build` and `source` of a real tree.
            (MemberKind::Folder | MemberKind::Symlink(_), _, Some(_)) => Ok(Part::Ignored),
            (MemberKind::Folder, "" | "." | "modules", _) => Ok(Part::Ignored),
            (_, _, Some(_)) => Err("is neither file, folder nor symlink"),
            _ => Err("is not expected there: a file \"kernel\" and the folder \"modules\" are"),
        }
    },
    archive: ImageError::KernelArchive,
    no_kernel: || ImageError::KernelEntry { entry: "kernel".to_owned(), problem: "is missing" },
    many_kernels: || ImageError::KernelEntry { entry: "kernel".to_owned(), problem: "comes twice" },
};

/// Streams an archive once: the kernel is returned, its modules go to `destination`.
fn unpack(
    input: impl Read,
    packing: &Packing,
    destination: &mut Destination<'_>,
    progress: &dyn Progress,
) -> Result<Vec<u8>, ImageError> {
    let mut tar = TarReader::stream(input);
    let mut kernel = None;
    while let Some(member) = tar.next().map_err(packing.archive)? {
        progress::check(progress)?;
        let part = (packing.part)(&member)
            .map_err(|problem| ImageError::KernelEntry { entry: member.path.clone(), problem })?;
        match part {
            Part::Kernel if kernel.is_some() => return Err((packing.many_kernels)()),
            Part::Kernel => {
                let bytes = whole(&member, tar.data(), MAX_VMLINUX, packing.archive)?;
                let too_large = ImageError::Kernel(KernelError::TooLarge { limit: MAX_VMLINUX });
                kernel = Some(bytes.ok_or(too_large)?);
            }
            Part::Module(path) => {
                let bytes = whole(&member, tar.data(), MAX_MODULE, packing.archive)?;
                let problem = "is too large for a module, or sparse";
                let bytes = bytes.ok_or(ImageError::KernelEntry { entry: member.path.clone(), problem })?;
                destination.add_module_file(path, &bytes)?;
            }
            Part::Ignored => {}
        }
    }
    kernel.ok_or_else(packing.no_kernel)
}

/// All bytes of a file; none when they are more than `limit`, or not all stored.
fn whole(
    member: &Member,
    data: impl Read,
    limit: u64,
    archive: fn(ArchiveError) -> ImageError,
) -> Result<Option<Vec<u8>>, ImageError> {
    let MemberKind::File { size, extents } = &member.kind else { return Ok(None) };
    let stored: u64 = extents.iter().map(|extent| extent.length).sum();
    if stored != *size || *size > limit {
        return Ok(None);
    }
    match codec::read_limited(data, limit) {
        Ok(bytes) if bytes.len() as u64 == *size => Ok(Some(bytes)),
        Ok(_) => Err(archive(ArchiveError::Truncated { after: format!("{:?}", member.path) })),
        Err(ReadError::TooLarge) => Ok(None),
        Err(ReadError::Io(source)) => Err(archive(ArchiveError::Read(source))),
    }
}

/// A member's path without what says only where it starts.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./").trim_matches('/')
}

fn is_boot_kernel(path: &str) -> bool {
    path.strip_prefix("boot/")
        .is_some_and(|name| name.starts_with("vmlinuz-") || name.starts_with("vmlinux-"))
}

/// A file at `path` below `/lib/modules/<release>`: wanted if it is a module or a list of modules.
fn module(path: &str) -> Part<'_> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.contains(".ko") || name.starts_with("modules.") {
        Part::Module(Path::new(path))
    } else {
        Part::Ignored
    }
}
