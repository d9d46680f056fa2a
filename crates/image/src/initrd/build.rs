//! Builds an initrd.

use std::io::Write;
use std::path::Path;

use super::cpio::{Cpio, TooLarge};
use crate::codec;
use crate::kernel::{BootModule, KernelError, Linkage, ModuleTree, boot_modules, extract_vmlinux, program};
use crate::{ImageError, publish};

/// Maximum size of the agent, in bytes; its own budget is 3 MiB, a debug build has ten times that.
const MAX_AGENT: u64 = 64 << 20;

/// Maximum size of a kernel in bytes, as for an import.
const MAX_KERNEL: u64 = 512 << 20;

/// Contents of an initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitrdInfo {
    /// Size in bytes.
    pub size: u64,
    /// The modules, in load order.
    pub modules: Vec<String>,
}

/// Builds the boot initrd for the kernel imported into `kernel_dir`, in the file `out`.
///
/// It contains `agent` as `/init`; `/banger/modules`, one path per line in load order; `/banger/modules.d/*.ko`; the
/// directories `/dev`, `/proc`, `/sys` and `/new`; and `/dev/console`, without which a kernel with an empty built-in
/// initramfs gives `/init` no output.
///
/// # Errors
/// Returns an error if the agent is not a static x86-64 program, a module that another needs is missing, or a file
/// cannot be read or written. `out` is then unchanged.
pub fn build_initrd(kernel_dir: &Path, agent: &Path, out: &Path) -> Result<InitrdInfo, ImageError> {
    let agent = read_agent(agent)?;
    let modules = read_modules(kernel_dir)?;
    let bytes = pack(&agent, &modules).map_err(|TooLarge| ImageError::Agent {
        path: out.to_owned(),
        reason: "it or a module is over 4 GiB",
    })?;
    let (mut file, temporary) = publish::create_temporary(out)?;
    file.write_all(&bytes).map_err(|source| publish::write_error(source, out, bytes.len() as u64))?;
    publish::publish(&file, temporary, out)?;
    let modules = modules.into_iter().map(|module| module.name).collect();
    Ok(InitrdInfo { size: bytes.len() as u64, modules })
}

fn read_agent(path: &Path) -> Result<Vec<u8>, ImageError> {
    let refused = |reason| ImageError::Agent { path: path.to_owned(), reason };
    let bytes = codec::read_file(path, MAX_AGENT)?.ok_or(refused("it is larger than 64 MiB"))?;
    match program(&bytes).map_err(refused)? {
        Linkage::Static => Ok(bytes),
        Linkage::Dynamic => Err(refused("it is dynamically linked, and an initrd has no libraries")),
    }
}

fn read_modules(kernel_dir: &Path) -> Result<Vec<BootModule>, ImageError> {
    let dir = kernel_dir.join("modules");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let tree = ModuleTree::scan(&dir).map_err(ImageError::Modules)?;
    // If `modules.builtin` exists, the kernel need not be read.
    let vmlinux = if tree.is_builtin("ext4").is_some() { Vec::new() } else { read_vmlinux(kernel_dir)? };
    boot_modules(&tree, &vmlinux).map_err(ImageError::Modules)
}

fn read_vmlinux(kernel_dir: &Path) -> Result<Vec<u8>, ImageError> {
    let path = kernel_dir.join("vmlinux");
    let too_large = ImageError::Kernel(KernelError::TooLarge { limit: MAX_KERNEL });
    let bytes = codec::read_file(&path, MAX_KERNEL)?.ok_or(too_large)?;
    Ok(extract_vmlinux(&bytes).map_err(ImageError::Kernel)?.into_owned())
}

fn pack(agent: &[u8], modules: &[BootModule]) -> Result<Vec<u8>, TooLarge> {
    let mut cpio = Cpio::default();
    for dir in ["dev", "proc", "sys", "new", "banger", "banger/modules.d"] {
        cpio.directory(dir)?;
    }
    cpio.char_device("dev/console", 0o600, (5, 1))?;
    let mut list = String::new();
    for module in modules {
        let path = format!("banger/modules.d/{}.ko", module.name);
        cpio.file(&path, 0o644, &module.image)?;
        list.push_str(&format!("/{path}\n"));
    }
    cpio.file("banger/modules", 0o644, list.as_bytes())?;
    cpio.file("init", 0o755, agent)?;
    cpio.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::archive::testing::pipe;
    use crate::kernel::ModuleError;
    use crate::kernel::testing::{elf, module};

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let lab = Self { dir: tempfile::tempdir().unwrap() };
            fs::create_dir_all(lab.path("k/modules/kernel")).unwrap();
            fs::write(lab.path("agent"), elf(&[(1, b"agent")])).unwrap();
            lab.builtin("kernel/fs/ext4/ext4.ko\n");
            lab
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn builtin(&self, list: &str) {
            fs::write(self.path("k/modules/modules.builtin"), list).unwrap();
        }

        fn module(&self, file: &str, records: &[&str]) {
            let mut bytes = module(records);
            for (end, program) in [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")] {
                if file.ends_with(end) {
                    bytes = pipe(program, &["-c"], &bytes);
                }
            }
            fs::write(self.path("k/modules/kernel").join(file), bytes).unwrap();
        }

        fn build(&self) -> Result<InitrdInfo, ImageError> {
            build_initrd(&self.path("k"), &self.path("agent"), &self.path("initrd"))
        }
    }

    #[test]
    fn modules_are_loaded_after_their_dependencies() {
        let lab = Lab::new();
        lab.module("virtio_blk.ko.xz", &["depends=virtio,virtio-ring"]);
        lab.module("virtio-ring.ko.zst", &["depends="]);
        lab.module("virtio.ko.gz", &["depends=virtio_ring"]);
        lab.module("virtio-rng.ko", &["depends=virtio,rng-core"]);
        lab.builtin("kernel/fs/ext4/ext4.ko\nkernel/drivers/char/hw_random/rng-core.ko\n");
        lab.module("overlay.ko", &["depends=", "softdep=pre: crc32c not-there post: later"]);
        lab.module("crc32c_generic.ko", &["depends="]);
        lab.module("later.ko", &["depends="]);
        lab.module("unneeded.ko", &["depends="]);
        let info = lab.build().unwrap();
        assert_eq!(
            info.modules,
            ["virtio_ring", "virtio", "virtio_blk", "crc32c_generic", "overlay", "virtio_rng"]
        );
        let bytes = fs::read(lab.path("initrd")).unwrap();
        assert_eq!(info.size, bytes.len() as u64);

        // Extract it with busybox's cpio.
        let into = lab.path("x");
        fs::create_dir(&into).unwrap();
        let unpack = Command::new("busybox")
            .args(["cpio", "-i", "-d", "-F"])
            .arg(lab.path("initrd"))
            .args(["init", "banger/*", "new", "proc", "sys"])
            .current_dir(&into)
            .output()
            .unwrap();
        assert!(unpack.status.success(), "{unpack:?}");
        assert_eq!(fs::read(into.join("init")).unwrap(), elf(&[(1, b"agent")]));
        assert_eq!(fs::metadata(into.join("init")).unwrap().permissions().mode() & 0o777, 0o755);
        let list = fs::read_to_string(into.join("banger/modules")).unwrap();
        assert_eq!(list.lines().next(), Some("/banger/modules.d/virtio_ring.ko"));
        for line in list.lines() {
            assert!(fs::read(into.join(&line[1..])).unwrap().starts_with(b"\x7fELF"), "{line}");
        }
        assert!(into.join("new").is_dir() && into.join("proc").is_dir());

        lab.build().unwrap();
        assert_eq!(bytes, fs::read(lab.path("initrd")).unwrap(), "the same input gives the same bytes");
    }

    #[test]
    fn broken_modules_are_rejected_with_the_reason() {
        let refused = |prepare: fn(&Lab)| {
            let lab = Lab::new();
            prepare(&lab);
            let error = lab.build().unwrap_err();
            assert!(!lab.path("initrd").exists());
            match error {
                ImageError::Modules(source) => source,
                other => panic!("{other:?}"),
            }
        };
        let missing = refused(|lab| lab.module("virtio_blk.ko", &["depends=virtio"]));
        assert!(matches!(missing, ModuleError::Dependency { dependency, .. } if dependency == "virtio"));
        let cycle = refused(|lab| {
            lab.module("overlay.ko", &["depends=a"]);
            lab.module("a.ko", &["depends=overlay"]);
        });
        assert!(matches!(cycle, ModuleError::DependencyCycle { .. }));
        let wrong = refused(|lab| fs::write(lab.path("k/modules/kernel/overlay.ko"), b"hello").unwrap());
        assert!(matches!(wrong, ModuleError::NotModule { .. }));
        let no_modinfo = refused(|lab| fs::write(lab.path("k/modules/kernel/overlay.ko"), elf(&[])).unwrap());
        assert!(matches!(no_modinfo, ModuleError::NotModule { reason: "no .modinfo section", .. }));
        let cut = refused(|lab| {
            let compressed = pipe("xz", &["-c"], &module(&["depends="]));
            fs::write(lab.path("k/modules/kernel/overlay.ko.xz"), &compressed[..compressed.len() / 2])
                .unwrap();
        });
        assert!(matches!(cut, ModuleError::Read { .. }));
    }

    #[test]
    fn only_a_static_program_is_accepted_as_the_agent() {
        let lab = Lab::new();
        fs::copy("/bin/true", lab.path("agent")).unwrap();
        let Err(ImageError::Agent { path, reason }) = lab.build() else { panic!() };
        assert!(path.ends_with("agent") && reason.contains("dynamically linked"), "{reason}");
        fs::write(lab.path("agent"), b"#!/bin/sh").unwrap();
        assert!(matches!(lab.build(), Err(ImageError::Agent { .. })));
        fs::write(lab.path("agent"), b"").unwrap();
        assert!(matches!(lab.build(), Err(ImageError::Agent { .. })));
        fs::remove_file(lab.path("agent")).unwrap();
        assert!(matches!(lab.build(), Err(ImageError::Io { operation: "open", .. })));
    }

    #[test]
    fn without_modules_builtin_the_kernel_is_searched_for_drivers() {
        let lab = Lab::new();
        fs::remove_file(lab.path("k/modules/modules.builtin")).unwrap();
        fs::write(lab.path("k/vmlinux"), elf(&[(1, b"\0virtio.\0EXT4-fs")])).unwrap();
        lab.module("virtio_blk.ko", &["depends=virtio"]);
        assert_eq!(lab.build().unwrap().modules, ["virtio_blk"]);
        fs::remove_dir_all(lab.path("k/modules")).unwrap();
        assert_eq!(lab.build().unwrap().modules, [] as [&str; 0]);
    }
}
