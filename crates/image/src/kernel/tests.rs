//! Tests that import small kernels, compressed by the real compressors, and reject other files.

use std::fs;

use super::testing::{bzimage, elf, module, vmlinux};
use super::*;
use crate::archive::testing::{TarWriter, ar, pipe, rpm};
use crate::error::PackageError;
use crate::{ArchiveError, FailureKind, ImageError, Progress, Silent};

const RELEASE: &str = "6.1.0-56-test-amd64";

/// Appends the uncompressed size, as `size_append` of the kernel's build does.
fn with_size(mut compressed: Vec<u8>, size: usize) -> Vec<u8> {
    compressed.extend(u32::try_from(size).unwrap().to_le_bytes());
    compressed
}

fn payloads(kernel: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    // Options from Linux' scripts/Makefile.lib.
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

fn kernel_error(result: Result<KernelInfo, ImageError>) -> KernelError {
    match result {
        Err(ImageError::Kernel(source)) => source,
        other => panic!("{other:?}"),
    }
}

/// Creates an archive with only a kernel.
fn tar_of(kernel: &[u8]) -> Vec<u8> {
    TarWriter::default().file("kernel", kernel).end()
}

#[test]
fn every_payload_compression_is_decompressed() {
    let kernel = vmlinux(RELEASE, &[]);
    for (name, payload) in payloads(&kernel) {
        assert!(extract_vmlinux(&bzimage(&payload)).unwrap() == kernel, "{name}");
    }
    assert!(extract_vmlinux(&kernel).unwrap() == kernel);
    assert!(extract_vmlinux(&pipe("zstd", &["-c"], &kernel)).unwrap() == kernel);
}

#[test]
fn truncated_payloads_are_rejected_and_changed_ones_never_panic() {
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
fn unsupported_compressions_are_named() {
    for (start, name) in
        [(&b"BZh91AY&SY"[..], "bzip2"), (&[0x5d, 0, 0, 0x80, 0], "lzma"), (b"\x89LZO\0\r\n\x1a\n", "lzo")]
    {
        let Err(KernelError::Compression(compression)) = extract_vmlinux(&bzimage(start)) else {
            panic!("{name}")
        };
        assert_eq!(compression, name);
    }
    assert!(matches!(extract_vmlinux(&bzimage(b"whatever")), Err(KernelError::UnknownPayload { .. })));
}

#[test]
fn files_that_are_not_usable_kernels_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let mut other_machine = elf(&[(1, b"x")]);
    other_machine[18] = 183;
    let mut out_of_bounds = elf(&[(1, b"x")]);
    out_of_bounds[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
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
        ("beyond", out_of_bounds, |e| matches!(e, KernelError::OutOfBounds(_))),
        ("old", old, |e| matches!(e, KernelError::OldProtocol { version: 0x207 })),
        ("no-ext4", vmlinux(RELEASE, &["ext4"]), |e| {
            matches!(e, KernelError::Missing { option: "CONFIG_EXT4_FS", .. })
        }),
        ("no-vsock", vmlinux(RELEASE, &["vmw_vsock_virtio_transport"]), |e| {
            matches!(e, KernelError::Missing { option: "CONFIG_VIRTIO_VSOCKETS", .. })
        }),
    ];
    for (name, bytes, expected) in cases {
        let dest = dir.path().join(name);
        let error = kernel_error(import_kernel(&tar_of(&bytes)[..], &dest, &Silent));
        assert!(expected(&error), "{name}: {error}");
        assert!(!dest.exists(), "{name}: files were left behind");
    }
}

/// Creates an archive with a kernel and modules built for `release`.
fn with_modules(kernel: &[u8], release: &str) -> TarWriter {
    let vermagic = format!("vermagic={release} SMP mod_unload");
    let mut tar = TarWriter::default();
    tar.directory("./").file("./kernel", kernel).directory("./modules/").directory("./modules/kernel/");
    tar.file("./modules/modules.builtin", b"kernel/a/virtio-pci.ko\nkernel/b/virtio_mmio.ko\n");
    for name in ["ext4", "overlay", "virtio_blk", "vmw_vsock_virtio_transport"] {
        let bytes = module(&["license=GPL", "depends=", &vermagic]);
        tar.file(&format!("./modules/kernel/{name}.ko"), &bytes);
    }
    tar.symlink("./modules/build", "/etc").file("./modules/vmlinuz", b"");
    tar
}

#[test]
fn a_tar_of_a_kernel_and_its_modules_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = vmlinux(RELEASE, &["ext4", "overlay", "virtio_blk", "vmw_vsock_virtio_transport"]);
    let image = bzimage(&payloads(&kernel).remove(3).1);
    let tar = with_modules(&image, RELEASE).end();
    let dest = dir.path().join("out");
    fs::create_dir_all(dest.join("other")).unwrap();
    let info = import_kernel(&tar[..], &dest, &Silent).unwrap();
    let expected = KernelInfo {
        release: RELEASE.to_owned(),
        modules: true,
        pvh: true,
        virtio_pci: true,
        virtio_mmio: true,
        size: kernel.len() as u64,
        source: "files",
    };
    assert_eq!(info, expected);
    assert!(fs::read(dest.join("vmlinux")).unwrap() == kernel);
    assert!(dest.join("modules/kernel/ext4.ko").is_file());
    assert!(!dest.join("modules/build").exists(), "symlinks are left out");

    let again = import_kernel(&tar[..], &dest, &Silent);
    assert!(matches!(again, Err(ImageError::NotEmpty { .. })));
    assert!(dest.join("vmlinux").is_file(), "a directory with a kernel is left unchanged");

    let other = with_modules(&image, "5.0.0-other").end();
    let other = import_kernel(&other[..], &dir.path().join("x"), &Silent);
    assert!(matches!(other, Err(ImageError::Modules(ModuleError::Mismatch { .. }))), "{other:?}");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn archives_with_unexpected_entries_are_rejected_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out");
    let cases = [
        (TarWriter::default().symlink("kernel", "/etc/passwd").end(), "kernel", "is unexpected"),
        (TarWriter::default().file("vmlinuz", b"").end(), "vmlinuz", "is unexpected"),
        (TarWriter::default().file("modules/../../x.ko", b"").end(), "../../x.ko", "is not a plain"),
        (
            TarWriter::default().file("modules/x.ko", b"").file("modules/x.ko", b"").end(),
            "x.ko",
            "occurs twice",
        ),
    ];
    for (tar, name, text) in cases {
        let error = import_kernel(&tar[..], &dest, &Silent).unwrap_err();
        let ImageError::KernelEntry { entry, problem } = &error else { panic!("{error:?}") };
        assert!(entry == name && problem.starts_with(text), "{error}");
        assert_eq!(error.kind(), FailureKind::Invalid);
        assert!(!dest.exists());
    }
    let text = import_kernel(&b"hello"[..], &dest, &Silent);
    assert!(matches!(text, Err(ImageError::Kernel(KernelError::NotKernel))));
    let inner = TarWriter::default().file("files/x.tar", &tar_of(b"x")).end();
    let error = import_kernel(&inner[..], &dest, &Silent).unwrap_err();
    assert!(matches!(&error, ImageError::KernelEntry { entry, .. } if entry == "files/x.tar"), "{error:?}");
}

#[test]
fn archives_with_no_kernel_or_two_kernels_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out");
    let kernel = vmlinux(RELEASE, &[]);
    let none = TarWriter::default().file("modules/modules.builtin", b"").end();
    assert!(matches!(import_kernel(&none[..], &dest, &Silent), Err(ImageError::NoKernel)));
    let two = TarWriter::default().file("kernel", &kernel).file("files/b", &vmlinux("5.0", &[])).end();
    let error = import_kernel(&two[..], &dest, &Silent).unwrap_err();
    assert!(matches!(&error, ImageError::ManyKernels { entry } if entry == "files/b"), "{error:?}");
    assert!(!dest.exists());

    // Two copies of the same kernel count as one.
    let lib = format!("lib/modules/{RELEASE}/vmlinuz");
    let same = TarWriter::default().file(&lib, &kernel).file("boot/vmlinuz-x", &kernel).end();
    assert_eq!(import_kernel(&deb(&same)[..], &dest, &Silent).unwrap().source, "deb");
}

#[test]
fn a_plain_kernel_is_detected_by_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = vmlinux(RELEASE, &[]);
    let compressed = payloads(&kernel).into_iter().map(|(name, payload)| (name, bzimage(&payload)));
    let plain = [("vmlinux", kernel.clone()), ("vmlinux.zst", pipe("zstd", &["-c"], &kernel))];
    for (name, bytes) in compressed.chain(plain) {
        let dest = dir.path().join(name);
        let info = import_kernel(&bytes[..], &dest, &Silent).unwrap();
        assert_eq!((info.release.as_str(), info.modules, info.source), (RELEASE, false, "files"), "{name}");
        assert!(fs::read(dest.join("vmlinux")).unwrap() == kernel, "{name}");
    }
}

#[test]
fn holes_of_a_sparse_kernel_are_read_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let stored = vmlinux(RELEASE, &[]);
    let kernel = [&stored[..], &[0; 8192]].concat();
    let (size, map) = (kernel.len().to_string(), format!("0,{}", stored.len()));
    for (index, name) in ["kernel", "files/1/vmlinux"].into_iter().enumerate() {
        let dest = dir.path().join(index.to_string());
        let sparse = [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())];
        let tar = TarWriter::default().pax(&sparse).file(name, &stored).end();
        import_kernel(&tar[..], &dest, &Silent).unwrap();
        assert!(fs::read(dest.join("vmlinux")).unwrap() == kernel, "{name}");
    }
}

#[test]
fn a_kernel_split_over_several_packages_is_combined() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = bzimage(&payloads(&vmlinux(RELEASE, &["overlay", "ext4"])).remove(0).1);
    let at = |release: &str, name: &str| format!("./lib/modules/{release}/{name}");
    let core = TarWriter::default()
        .file(&at(RELEASE, "vmlinuz"), &kernel)
        .file(&at(RELEASE, "config"), b"CONFIG_XFS_FS=m\nCONFIG_TUN=y\n")
        .end();
    let modules = |release: &str, depends: &str| {
        let module = module(&[&format!("depends={depends}"), &format!("vermagic={RELEASE} SMP")]);
        let overlay = at(release, "kernel/overlay.ko");
        deb(&TarWriter::default().file(&overlay, &module).file(&at(release, "kernel/ext4.ko"), &module).end())
    };
    let combined = |modules: &[u8]| {
        TarWriter::default().file("files/0/core.deb", &deb(&core)).file("files/1/modules.deb", modules).end()
    };
    let dest = dir.path().join("out");
    let info = import_kernel(&combined(&modules(RELEASE, ""))[..], &dest, &Silent).unwrap();
    assert_eq!((info.modules, info.source), (true, "deb"));
    assert!(dest.join("config").is_file() && dest.join("modules/kernel/ext4.ko").is_file());

    let refused = |tar: &[u8]| {
        let dest = dir.path().join("refused");
        let error = import_kernel(tar, &dest, &Silent).unwrap_err();
        assert!(!dest.exists());
        error
    };
    let alone = refused(&deb(&core));
    assert!(matches!(alone, ImageError::Kernel(KernelError::Missing { .. })), "{alone:?}");
    let mixed = TarWriter::default()
        .file("files/0", &deb(&core))
        .file("files/1", &modules(RELEASE, ""))
        .file("files/2", &modules("6.2", ""))
        .end();
    assert!(matches!(refused(&mixed), ImageError::ManyReleases { second, .. } if second == "6.2"));
    let missing_dependency = refused(&combined(&modules(RELEASE, "jbd2")));
    let jbd2 = |error: &ModuleError| matches!(error, ModuleError::Dependency { dependency, .. } if dependency == "jbd2");
    assert!(
        matches!(&missing_dependency, ImageError::Modules(error) if jbd2(error)),
        "{missing_dependency:?}"
    );
}

#[test]
fn rpms_with_any_supported_compression_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = bzimage(&payloads(&vmlinux(RELEASE, &["overlay"])).remove(0).1);
    let root = dir.path().join("root");
    let modules = root.join("lib/modules").join(RELEASE);
    fs::create_dir_all(modules.join("kernel")).unwrap();
    let overlay = module(&["depends=", &format!("vermagic={RELEASE} SMP")]);
    fs::write(modules.join("kernel/overlay.ko"), &overlay).unwrap();
    fs::write(modules.join("vmlinuz"), &kernel).unwrap();
    std::os::unix::fs::symlink("/usr/src", modules.join("build")).unwrap();
    for payload in ["w.ufdio", "w6.gzdio", "w2.xzdio", "w3.zstdio"] {
        let package = rpm(&root, payload);
        let dest = dir.path().join(payload);
        let info = import_kernel(&package[..], &dest, &Silent).unwrap();
        assert_eq!((info.release.as_str(), info.modules, info.source), (RELEASE, true, "rpm"), "{payload}");
        assert!(fs::read(dest.join("modules/kernel/overlay.ko")).unwrap() == overlay, "{payload}");
        assert!(!dest.join("modules/vmlinuz").exists() && !dest.join("modules/build").exists());
        let cut = import_kernel(&package[..package.len() - 100], &dir.path().join("cut"), &Silent);
        assert!(cut.is_err() && !dir.path().join("cut").exists(), "{payload}");
    }
    let bzip2 = import_kernel(&rpm(&root, "w1.bzdio")[..], &dir.path().join("x"), &Silent).unwrap_err();
    assert!(matches!(bzip2, ImageError::Compression { compression: "bzip2", .. }), "{bzip2:?}");
    fs::remove_file(modules.join("vmlinuz")).unwrap();
    let none = import_kernel(&rpm(&root, "w.ufdio")[..], &dir.path().join("x"), &Silent).unwrap_err();
    assert!(matches!(none, ImageError::NoKernel), "{none:?}");
}

#[test]
fn kernel_details_are_determined_from_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let details_of = |tar: &[u8], name: &str| {
        let dest = dir.path().join(name);
        import_kernel(tar, &dest, &Silent).unwrap();
        kernel_details(&dest).unwrap()
    };
    let presence_of = |details: &KernelDetails, name: &str| {
        let boot =
            details.boot.iter().find(|(driver, _)| *driver == name).map(|(_, presence)| Some(*presence));
        boot.or_else(|| {
            details.other_features.iter().find(|(driver, _)| *driver == name).map(|(_, presence)| *presence)
        })
        .unwrap()
    };
    let complete = vmlinux(RELEASE, &[]);
    let alone = details_of(&complete, "alone");
    assert_eq!((alone.modules, alone.firecracker, alone.qemu), (0, true, true));
    assert_eq!((presence_of(&alone, "ext4"), presence_of(&alone, "xfs")), (Some(Presence::BuiltIn), None));
    let mmio_only = details_of(&vmlinux(RELEASE, &["virtio_pci"]), "mmio");
    assert_eq!((mmio_only.firecracker, mmio_only.qemu), (true, false));
    assert_eq!(presence_of(&mmio_only, "virtio_pci"), Some(Presence::Absent));
    let supports = |name: &str| {
        [Bus::Mmio, Bus::Pci].map(|bus| kernel_supports_bus(&dir.path().join(name), bus).unwrap())
    };
    assert_eq!((supports("alone"), supports("mmio")), ([true, true], [true, false]));

    // `modules.builtin` takes precedence over a configuration.
    let config = b"CONFIG_XFS_FS=y\nCONFIG_TUN=m\n";
    let configured = details_of(
        &TarWriter::default().file("kernel", &complete).file("config", config).end(),
        "configured",
    );
    let presences = ["xfs", "tun", "kvm"].map(|name| presence_of(&configured, name));
    assert_eq!(presences, [Some(Presence::BuiltIn), Some(Presence::Absent), Some(Presence::Absent)]);
    let kernel = vmlinux(RELEASE, &["ext4", "overlay", "virtio_blk", "vmw_vsock_virtio_transport"]);
    let listed = details_of(&with_modules(&kernel, RELEASE).file("config", config).end(), "listed");
    assert_eq!((listed.modules, supports("listed")), (4, [true, true]));
    assert_eq!(
        (presence_of(&listed, "ext4"), presence_of(&listed, "xfs")),
        (Some(Presence::Module), Some(Presence::Absent))
    );

    let missing = kernel_details(&dir.path().join("gone")).unwrap_err();
    assert!(matches!(missing, ImageError::Io { operation: "open", .. }));
}

#[test]
fn cancellation_is_not_reported_as_damage() {
    struct AlwaysCancelled;
    impl Progress for AlwaysCancelled {
        fn stage(&self, _: &str) {}
        fn bytes(&self, _: u64, _: Option<u64>) {}
        fn log(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let result = import_kernel(&b"hello"[..], &dir.path().join("out"), &AlwaysCancelled);
    assert!(matches!(result, Err(ImageError::Cancelled)));
}

fn deb(tar: &[u8]) -> Vec<u8> {
    let data = pipe("xz", &["-0", "-c"], tar);
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"x"), ("data.tar.xz", &data)])
}

#[test]
fn a_package_is_imported_and_hostile_packages_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = bzimage(&payloads(&vmlinux(RELEASE, &["overlay"])).remove(0).1);
    let overlay = module(&["depends=", &format!("vermagic={RELEASE} SMP")]);
    let lib = format!("./lib/modules/{RELEASE}/kernel/overlay.ko");
    let mut tar = TarWriter::default();
    tar.directory("./")
        .directory("./boot/")
        .file(&format!("./boot/vmlinuz-{RELEASE}"), &kernel)
        .file(&lib, &overlay);
    tar.file(&format!("./usr/share/doc/x/{RELEASE}"), b"doc");
    let good = tar.end();
    let dest = dir.path().join("good");
    let info = import_kernel(&deb(&good)[..], &dest, &Silent).unwrap();
    assert_eq!((info.release.as_str(), info.modules), (RELEASE, true));
    assert_eq!(fs::read(dest.join("modules/kernel/overlay.ko")).unwrap(), overlay);

    let refused = |name: &str, tar: &[u8]| {
        let dest = dir.path().join(name);
        let error = import_kernel(&deb(tar)[..], &dest, &Silent).unwrap_err();
        assert!(!dest.exists(), "{name}");
        error
    };
    let mut tar = TarWriter::default();
    tar.file(&format!("boot/vmlinuz-{RELEASE}"), &kernel)
        .file(&format!("lib/modules/{RELEASE}/../../../x.ko"), b"");
    assert!(matches!(refused("dotdot", &tar.end()), ImageError::KernelEntry { .. }));
    assert!(!dir.path().join("x.ko").exists());
    let mut tar = TarWriter::default();
    tar.file("usr/bin/hello", b"");
    assert!(matches!(refused("none", &tar.end()), ImageError::NoKernel));
    let cut = refused("cut", &good[..good.len() / 2 / 512 * 512]);
    let truncated = PackageError::Archive(ArchiveError::Truncated { after: String::new() });
    assert!(
        matches!(&cut, ImageError::Package(error) if error.to_string() == truncated.to_string()),
        "{cut:?}"
    );
}
