//! Whole imports of small kernels, packed by the real compressors, and of everything that is none.

use std::fs;
use std::path::Path;

use super::testing::{bzimage, elf, module, vmlinux};
use super::*;
use crate::archive::testing::{TarWriter, ar, pipe};
use crate::error::PackageError;
use crate::{ImageError, Silent};

const RELEASE: &str = "6.1.0-56-test-amd64";

/// What `size_append` of the kernel's build does.
fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend(u32::try_from(size).unwrap().to_le_bytes());
    packed
}

fn payloads(kernel: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    // The options that Linux' scripts/Makefile.lib uses.
    vec![
        ("gzip", pipe("gzip", &["-n", "-9", "-c"], kernel)),
        (
            "xz",
            with_size(
                pipe("xz", &["--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"], kernel),
                kernel.len(),
            ),
        ),
        ("zstd", with_size(pipe("zstd", &["-22", "--ultra", "-c"], kernel), kernel.len())),
        ("lz4", with_size(pipe("lz4", &["-l", "-9", "-c"], kernel), kernel.len())),
    ]
}

fn kernel_error(result: Result<KernelInfo, ImageError>, file: &str) -> KernelError {
    match result {
        Err(ImageError::Kernel { path, source }) => {
            assert!(path.ends_with(file), "{}", path.display());
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_payload_is_unpacked() {
    let kernel = vmlinux(RELEASE, &[]);
    for (name, payload) in payloads(&kernel) {
        assert!(extract_vmlinux(&bzimage(&payload)).unwrap() == kernel, "{name}");
    }
    assert!(extract_vmlinux(&kernel).unwrap() == kernel);
    assert!(extract_vmlinux(&pipe("zstd", &["-c"], &kernel)).unwrap() == kernel);
}

#[test]
fn damaged_payloads_are_refused_and_never_panic() {
    let kernel = vmlinux(RELEASE, &[]);
    for (name, payload) in payloads(&kernel) {
        let half = bzimage(&payload[..payload.len() / 2]);
        assert!(matches!(extract_vmlinux(&half), Err(KernelError::Damaged { .. })), "{name}");
        let image = bzimage(&payload);
        for length in (0..image.len()).step_by(997).chain(0..0x260) {
            if length < image.len() - 1000 {
                assert!(extract_vmlinux(&image[..length]).is_err(), "{name} cut to {length}");
            }
        }
        for at in (0x1f0..0x260).chain((0x260..image.len()).step_by(4001)) {
            let mut wrong = image.clone();
            wrong[at] ^= 0xff;
            let _ = extract_vmlinux(&wrong);
        }
    }
}

#[test]
fn unreadable_compressions_are_named() {
    for (start, name) in
        [(&b"BZh91AY&SY"[..], "bzip2"), (&[0x5d, 0, 0, 0x80, 0], "lzma"), (b"\x89LZO\0\r\n\x1a\n", "lzo")]
    {
        let Err(KernelError::Compression(found)) = extract_vmlinux(&bzimage(start)) else { panic!("{name}") };
        assert_eq!(found, name);
    }
    assert!(matches!(extract_vmlinux(&bzimage(b"whatever")), Err(KernelError::UnknownPayload { .. })));
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut other_machine = elf(&[(1, b"x")]);
    other_machine[18] = 183;
    let mut beyond = elf(&[(1, b"x")]);
    beyond[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut old = bzimage(b"x");
    old[0x206] = 7;
    old[0x207] = 2;
    type Expected = fn(&KernelError) -> bool;
    let cases: [(&str, Vec<u8>, Expected); 9] = [
        ("empty", vec![], |e| matches!(e, KernelError::Empty)),
        ("text", b"hello, I am a kernel".to_vec(), |e| matches!(e, KernelError::NotKernel)),
        ("program", fs::read("/bin/true").unwrap(), |e| matches!(e, KernelError::NoRelease)),
        ("no-segments", elf(&[]), |e| matches!(e, KernelError::Elf(_))),
        ("other-machine", other_machine, |e| matches!(e, KernelError::Elf(_))),
        ("beyond", beyond, |e| matches!(e, KernelError::OutOfBounds(_))),
        ("old", old, |e| matches!(e, KernelError::OldProtocol { version: 0x207 })),
        ("no-ext4", vmlinux(RELEASE, &["ext4"]), |e| {
            matches!(e, KernelError::Missing { option: "CONFIG_EXT4_FS", .. })
        }),
        ("no-vsock", vmlinux(RELEASE, &["vmw_vsock_virtio_transport"]), |e| {
            matches!(e, KernelError::Missing { option: "CONFIG_VIRTIO_VSOCKETS", .. })
        }),
    ];
    for (name, bytes, expected) in cases {
        let image = folder.path().join(name);
        fs::write(&image, bytes).unwrap();
        let dest = folder.path().join(format!("{name}.out"));
        let error = kernel_error(import_kernel_files(&image, None, &dest, &Silent), name);
        assert!(expected(&error), "{name}: {error}");
        assert!(!dest.exists(), "{name}: something was left behind");
    }
}

fn modules_for(release: &str, folder: &Path) {
    let vermagic = format!("vermagic={release} SMP mod_unload");
    fs::create_dir_all(folder.join("kernel/fs")).unwrap();
    fs::write(folder.join("modules.builtin"), "kernel/a/virtio-pci.ko\nkernel/b/virtio_mmio.ko\n").unwrap();
    for name in ["ext4", "overlay", "virtio_blk", "vmw_vsock_virtio_transport"] {
        let bytes = module(&["license=GPL", "depends=", &vermagic]);
        fs::write(folder.join(format!("kernel/fs/{name}.ko")), bytes).unwrap();
    }
    std::os::unix::fs::symlink("/etc", folder.join("build")).unwrap();
}

#[test]
fn files_with_modules_are_imported() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("vmlinuz");
    let kernel = vmlinux(RELEASE, &["ext4", "overlay", "virtio_blk", "vmw_vsock_virtio_transport"]);
    fs::write(&image, bzimage(&payloads(&kernel).remove(3).1)).unwrap();
    let modules = folder.path().join("mods");
    modules_for(RELEASE, &modules);
    let dest = folder.path().join("out");
    let info = import_kernel_files(&image, Some(&modules), &dest, &Silent).unwrap();
    let expected = KernelInfo {
        release: RELEASE.to_owned(),
        modules: true,
        pvh: true,
        virtio_pci: true,
        virtio_mmio: true,
        size: kernel.len() as u64,
    };
    assert_eq!(info, expected);
    assert!(fs::read(dest.join("vmlinux")).unwrap() == kernel);
    assert!(dest.join("modules/kernel/fs/ext4.ko").is_file());
    assert!(!dest.join("modules/build").exists(), "symlinks are left out");

    let again = import_kernel_files(&image, Some(&modules), &dest, &Silent);
    assert!(matches!(again, Err(ImageError::NotEmpty { .. })));
    assert!(dest.join("vmlinux").is_file(), "a folder that was full is left alone");

    modules_for("5.0.0-other", &folder.path().join("others"));
    let other =
        import_kernel_files(&image, Some(&folder.path().join("others")), &folder.path().join("x"), &Silent);
    assert!(
        matches!(other, Err(ImageError::Modules { source: ModuleError::Mismatch { .. }, .. })),
        "{other:?}"
    );
    assert!(!folder.path().join("x").exists());
}

fn deb(folder: &Path, name: &str, tar: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    let data = pipe("xz", &["-0", "-c"], tar);
    fs::write(&path, ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"x"), ("data.tar.xz", &data)]))
        .unwrap();
    path
}

#[test]
fn a_package_is_imported_and_hostile_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = bzimage(&payloads(&vmlinux(RELEASE, &["overlay"])).remove(0).1);
    let overlay = module(&["depends=", &format!("vermagic={RELEASE} SMP")]);
    let lib = format!("./lib/modules/{RELEASE}/kernel/overlay.ko");
    let mut tar = TarWriter::default();
    tar.folder("./")
        .folder("./boot/")
        .file(&format!("./boot/vmlinuz-{RELEASE}"), &kernel)
        .file(&lib, &overlay);
    tar.file(&format!("./usr/share/doc/x/{RELEASE}"), b"doc");
    let good = tar.end();
    let path = deb(folder.path(), "good.deb", &good);
    let dest = folder.path().join("good");
    let info = import_kernel_deb(&path, &dest, &Silent).unwrap();
    assert_eq!((info.release.as_str(), info.modules), (RELEASE, true));
    assert_eq!(fs::read(dest.join("modules/kernel/overlay.ko")).unwrap(), overlay);

    let refused = |name: &str, tar: &[u8]| {
        let path = deb(folder.path(), name, tar);
        let dest = folder.path().join(format!("{name}.out"));
        let error = import_kernel_deb(&path, &dest, &Silent).unwrap_err();
        assert!(!dest.exists(), "{name}");
        error
    };
    let mut tar = TarWriter::default();
    tar.file(&format!("boot/vmlinuz-{RELEASE}"), &kernel)
        .file(&format!("lib/modules/{RELEASE}/../../../x.ko"), b"");
    assert!(matches!(refused("dotdot", &tar.end()), ImageError::Io { operation: "create", .. }));
    assert!(!folder.path().join("x.ko").exists());
    let mut tar = TarWriter::default();
    tar.file("usr/bin/hello", b"");
    assert!(matches!(
        refused("none", &tar.end()),
        ImageError::Package { source: PackageError::NoKernel, .. }
    ));
    let cut = refused("cut", &good[..good.len() / 2 / 512 * 512]);
    assert!(matches!(cut, ImageError::Package { source: PackageError::Truncated, .. }), "{cut:?}");
    let path = folder.path().join("text.deb");
    fs::write(&path, b"not a package").unwrap();
    let text = import_kernel_deb(&path, &folder.path().join("y"), &Silent).unwrap_err();
    assert!(matches!(text, ImageError::Package { source: PackageError::NotDeb, .. }));
}
