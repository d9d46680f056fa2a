//! Tests of complete imports: output of the real tar and compressors, and hostile tars. e2fsck checks every image.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use mkext4::reader::Fs;
use proptest::prelude::*;

use super::*;
use crate::archive::testing::{TarWriter, pipe};
use crate::{ArchiveError, EntryProblem, FailureKind, ImageError, Progress, Silent};
use crate::{import_rootfs, import_rootfs_file};

/// A directory for an image.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn image(&self) -> std::path::PathBuf {
        self.0.path().join("image")
    }

    fn import(&self, tar: &[u8]) -> Result<RootfsInfo, ImageError> {
        self.import_with(tar, &RootfsOptions { size: Some(64 << 20), label: String::new() })
    }

    /// Imports a tar from a file.
    fn import_file(&self, tar: &Path) -> Result<RootfsInfo, ImageError> {
        let file = File::open(tar).unwrap();
        let options = RootfsOptions { size: Some(64 << 20), label: String::new() };
        import_rootfs_file(file, self.0.path(), &self.image(), &options, &Silent)
    }

    fn import_with(&self, tar: &[u8], options: &RootfsOptions) -> Result<RootfsInfo, ImageError> {
        let result = import_rootfs(tar, self.0.path(), &self.image(), options, &Silent);
        let remaining = fs::read_dir(self.0.path()).unwrap().count();
        match &result {
            Ok(info) => {
                fsck(&self.image());
                assert_eq!(info.size, fs::metadata(self.image()).unwrap().len());
            }
            Err(_) => assert_eq!(remaining, 0, "files were left behind"),
        }
        result
    }

    fn debugfs(&self, request: &str) -> String {
        let output = Command::new("/usr/sbin/debugfs").arg("-R").arg(request).arg(self.image()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let fs = Fs::open(File::open(self.image()).unwrap()).unwrap();
        fs.read_file(fs.resolve(path).unwrap()).unwrap()
    }
}

fn fsck(image: &Path) {
    let output = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn problem(result: Result<RootfsInfo, ImageError>) -> (String, EntryProblem) {
    match result {
        Err(ImageError::Archive(ArchiveError::Entry { entry, problem })) => (entry, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_compression_gives_the_same_image() {
    let tar = TarWriter::default()
        .directory("./")
        .file("./usr/lib/os-release", b"PRETTY_NAME=\"Test OS 1\"\n")
        .symlink("./etc/os-release", "../usr/lib/os-release")
        .raw_with(b'0', b"./usr/lib/systemd/systemd", b"", 3, b"ELF", |header| header.set_mode(0o755))
        .symlink("./sbin", "usr/sbin")
        .symlink("./usr/sbin/init", "/lib/systemd/systemd")
        .symlink("./lib", "usr/lib")
        .file("./data", &vec![7; 3_000_000])
        .end();
    let lab = Lab::new();
    let info = lab.import(&tar).unwrap();
    assert_eq!(info.os.as_deref(), Some("Test OS 1"));
    assert_eq!(info.init.as_deref(), Some("/sbin/init"));
    let plain = fs::read(lab.image()).unwrap();
    assert!(lab.read("/data") == vec![7; 3_000_000]);
    for program in ["gzip", "zstd", "xz"] {
        let compressed = pipe(program, &["-c"], &tar);
        let lab = Lab::new();
        assert_eq!(lab.import(&compressed).unwrap(), info, "{program}");
        assert!(fs::read(lab.image()).unwrap() == plain, "{program}");
        let cut = Lab::new().import(&compressed[..compressed.len() / 2]).unwrap_err();
        assert!(matches!(cut, ImageError::Archive(ArchiveError::Read(_))), "{program}: {cut:?}");
    }
    let bzip2 = Lab::new().import(b"BZh91AY&SY...").unwrap_err();
    assert!(matches!(bzip2, ImageError::Compression { compression: "bzip2", .. }));
    assert_eq!(bzip2.kind(), FailureKind::Invalid);
}

#[test]
fn busybox_is_chosen_as_init_only_if_its_inittab_programs_exist() {
    let init = |boot: &[(&str, u16)]| {
        let mut tar = TarWriter::default();
        tar.raw_with(b'0', b"bin/busybox", b"", 3, b"ELF", |header| header.set_mode(0o755));
        tar.symlink("sbin", "usr/sbin").hard_link("usr/sbin/init", "bin/busybox");
        tar.file("etc/inittab", b"::sysinit:/sbin/openrc sysinit\n");
        for (program, mode) in boot {
            tar.raw_with(b'0', program.as_bytes(), b"", 3, b"ELF", |header| header.set_mode((*mode).into()));
        }
        Lab::new().import(&tar.end()).unwrap().init
    };
    assert_eq!(init(&[]), None);
    assert_eq!(init(&[("usr/sbin/openrc", 0o644)]), None);
    assert_eq!(init(&[("usr/sbin/openrc", 0o755)]).as_deref(), Some("/sbin/init"));
    let systemd = ("usr/lib/systemd/systemd", 0o755);
    assert_eq!(init(&[systemd]).as_deref(), Some("/usr/lib/systemd/systemd"));
}

#[test]
fn output_of_gnu_tar_is_imported() {
    let source = tempfile::tempdir().unwrap();
    let script = r#"
        mkdir -p d/e && echo hello > d/e/hello && ln d/e/hello hard && ln -s /d/e/hello abs && ln -s e d/rel
        truncate -s 10M sparse && printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        printf end >> sparse
        mkfifo fifo && chmod 4755 d/e/hello && touch "$(printf 'n%.0s' $(seq 200))"
        mkdir -p "$(printf 'l%.0s' $(seq 150))/$(printf 'm%.0s' $(seq 150))"
        mkdir many && (cd many && seq -f 'a file with a long name %g' 3000 | xargs -d '\n' touch)
    "#;
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(source.path()).status().unwrap();
    assert!(status.success());
    for format in ["--format=gnu", "--format=pax"] {
        let output = Command::new("tar")
            .args(["-cS", format, "--owner=7:70000", "--mtime=@1600000000", "."])
            .current_dir(source.path())
            .output()
            .unwrap();
        let lab = Lab::new();
        lab.import(&output.stdout).unwrap();
        assert_eq!(lab.read("/d/e/hello"), b"hello\n");
        let stat = lab.debugfs("stat /hard");
        assert!(stat.contains("Links: 2") && stat.contains("Mode:  04755"), "{stat}");
        assert!(stat.contains("0x5f5e1000"), "{stat}");
        assert!(lab.debugfs("stat /abs").contains("Fast link dest: \"/d/e/hello\""));
        assert!(lab.debugfs("stat /fifo").contains("Type: FIFO"));
        assert!(lab.read("/sparse") == fs::read(source.path().join("sparse")).unwrap());
        assert!(lab.debugfs("stat /sparse").contains("Blockcount: 16"), "{}", lab.debugfs("stat /sparse"));
        assert!(lab.debugfs("ls /").contains(&"n".repeat(200)));
        assert!(lab.debugfs(&format!("ls /{}", "l".repeat(150))).contains(&"m".repeat(150)));
        assert!(lab.read("/many/a file with a long name 2999").is_empty());
    }
}

#[test]
fn paths_resolve_as_in_linux() {
    let lab = Lab::new();
    let mut tar = TarWriter::default();
    tar.directory("usr").symlink("bin", "usr/bin").directory("usr/bin").file("bin/sh", b"first");
    tar.symlink("absolute", "/usr//bin/.").file("absolute/ls", b"ls").file("usr/./bin//sh", b"second");
    tar.symlink("usr/up", "../bin/..").file("usr/up/there", b"1").hard_link("link", "/absolute/sh");
    tar.file("/implied/parents/x", b"x").file("old", b"").directory("old").file("old/new", b"");
    tar.directory("lost+found")
        .file("lost+found/x", b"")
        .raw(b'3', b"null", b"", 0, b"")
        .raw(b'4', b"sda", b"", 0, b"");
    let info = lab.import(&tar.end()).unwrap();
    assert_eq!(info.init, None);
    assert_eq!(lab.read("/usr/bin/sh"), b"second");
    assert_eq!(lab.read("/usr/bin/ls"), b"ls");
    assert_eq!(lab.read("/usr/there"), b"1");
    assert_eq!(lab.read("/link"), b"second");
    assert_eq!(lab.read("/old/new"), b"");
    assert!(lab.debugfs("stat /null").contains("Type: character special"));
    assert!(lab.debugfs("stat /null").contains("01:03"));
    assert!(lab.debugfs("stat /sda").contains("Type: block special"));
    assert!(lab.debugfs("stat /implied").contains("Mode:  0755"));
}

#[test]
fn a_file_and_a_stream_give_the_same_image() {
    let tar = TarWriter::default().directory("etc").file("etc/motd", &[7; 100_000]).end();
    let from_stream = Lab::new();
    from_stream.import(&tar).unwrap();
    let expected = fs::read(from_stream.image()).unwrap();
    for bytes in [tar.clone(), pipe("gzip", &["-c"], &tar)] {
        let (lab, file) = (Lab::new(), tempfile::NamedTempFile::new().unwrap());
        fs::write(file.path(), &bytes).unwrap();
        lab.import_file(file.path()).unwrap();
        assert!(fs::read(lab.image()).unwrap() == expected);
        fs::write(file.path(), &bytes[..bytes.len() / 2]).unwrap();
        assert!(lab.import_file(file.path()).is_err());
    }
    assert!(Lab::new().import_file(Path::new("/dev/null")).is_err());
}

#[test]
fn an_endless_stream_that_is_not_a_tar_is_rejected_at_its_start() {
    let lab = Lab::new();
    let import = |input: &mut dyn io::Read| {
        import_rootfs(input, lab.0.path(), &lab.image(), &RootfsOptions::default(), &Silent)
    };
    let zeros = import(&mut io::repeat(0));
    assert!(matches!(zeros, Err(ImageError::Archive(ArchiveError::Empty))), "{zeros:?}");
    let other = import(&mut io::repeat(b'x'));
    assert!(matches!(other, Err(ImageError::Archive(ArchiveError::NotTar))), "{other:?}");
}

#[test]
fn blank_numbers_in_a_header_are_read_as_zero() {
    let mut tar = TarWriter::default();
    tar.raw_with(b'0', b"blank", b"", 1, b"x", |header| {
        // Owners and times are at 108 to 124 and 136 to 148 (POSIX ustar).
        header.as_mut_bytes()[108..124].fill(0);
        header.as_mut_bytes()[136..148].fill(b' ');
    });
    let lab = Lab::new();
    lab.import(&tar.end()).unwrap();
    assert!(lab.debugfs("stat /blank").contains("User:     0   Group:     0"));
}

#[test]
fn hostile_entries_are_rejected_by_name() {
    let refused = |prepare: fn(&mut TarWriter)| {
        let mut tar = TarWriter::default();
        prepare(&mut tar);
        problem(Lab::new().import(&tar.end()))
    };
    let dots = refused(|tar| _ = tar.file("a/../../etc/passwd", b""));
    assert_eq!(dots, ("a/../../etc/passwd".to_owned(), EntryProblem::DotDot("its name")));
    let dots = refused(|tar| _ = tar.file("a", b"").hard_link("b", "../a"));
    assert_eq!(dots.1, EntryProblem::DotDot("its target"));
    let missing = refused(|tar| _ = tar.hard_link("b", "a"));
    assert_eq!(missing.1, EntryProblem::LinkTarget("a".to_owned()));
    let dir = refused(|tar| _ = tar.directory("a").hard_link("b", "a"));
    assert_eq!(dir.1, EntryProblem::LinkToDirectory("a".to_owned()));
    let root = refused(|tar| _ = tar.hard_link("b", "/"));
    assert_eq!(root.1, EntryProblem::LinkToDirectory("/".to_owned()));
    for target in ["nowhere", "../..", "x", "a/..", "/file"] {
        let mut tar = TarWriter::default();
        tar.file("file", b"").symlink("x", target).file("x/y", b"");
        let link = problem(Lab::new().import(&tar.end()));
        assert_eq!(link, ("x/y".to_owned(), EntryProblem::ParentLink("x".to_owned())), "{target}");
    }
    let cycle = refused(|tar| _ = tar.symlink("a", "b").symlink("b", "a").file("a/y", b""));
    assert_eq!(cycle.1, EntryProblem::ParentLink("a".to_owned()));
    let parent = refused(|tar| _ = tar.file("a", b"").file("a/b", b""));
    assert_eq!(parent.1, EntryProblem::ParentNotDirectory("a".to_owned()));
    let nameless = refused(|tar| _ = tar.file(".", b""));
    assert_eq!(nameless.1, EntryProblem::EmptyName("its name"));
    let deep = refused(|tar| {
        for _ in 0..40 {
            tar.directory(&"d/".repeat(40)).symlink("d/l", "/");
        }
        tar.pax(&[("path", "e/".repeat(1500).as_bytes())]).directory("x");
    });
    assert_eq!(deep.1, EntryProblem::TooDeep(1024));
    let xattr = refused(|tar| _ = tar.pax(&[("SCHILY.xattr.user.a", &[0; 5000])]).file("a", b""));
    assert_eq!(xattr, ("a".to_owned(), EntryProblem::Xattr("user.a".to_owned())));
    assert!(matches!(Lab::new().import(b""), Err(ImageError::Archive(ArchiveError::Empty))));
    assert!(matches!(Lab::new().import(&[0; 1024]), Err(ImageError::Archive(ArchiveError::Empty))));
    assert!(matches!(Lab::new().import(&[1; 1024]), Err(ImageError::Archive(ArchiveError::NotTar))));
    let tar = TarWriter::default().file("a", &[1; 5000]).file("b", b"").end();
    for length in [5300, 2000, 700, tar.len() - 1024] {
        let cut = Lab::new().import(&tar[..length]).unwrap_err();
        assert!(matches!(&cut, ImageError::Archive(ArchiveError::Truncated { .. })), "{length}: {cut:?}");
    }
}

#[test]
fn extended_attributes_are_stored() {
    let lab = Lab::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut access = 2u32.to_le_bytes().to_vec();
    for (tag, id) in [(1u16, u32::MAX), (2, 1000), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)] {
        access.extend(tag.to_le_bytes());
        access.extend(6u16.to_le_bytes());
        access.extend(id.to_le_bytes());
    }
    let large = vec![b'v'; 3500];
    let mut tar = TarWriter::default();
    tar.pax(&[("SCHILY.xattr.security.capability", &capability), ("SCHILY.xattr.com.apple.x", b"1")]);
    tar.file("ping", b"x").pax(&[("SCHILY.xattr.system.posix_acl_access", &access)]).file("shared", b"");
    tar.pax(&[("SCHILY.xattr.user.large", &large), ("SCHILY.xattr.user.small", b"1")]).directory("d");
    lab.import(&tar.end()).unwrap();
    assert!(lab.debugfs("ea_list /ping").contains("security.capability (20)"));
    assert!(!lab.debugfs("ea_list /ping").contains("apple"));
    assert!(lab.debugfs("ea_list /shared").contains("system.posix_acl_access"));
    assert!(lab.debugfs("ea_list /d").contains("user.large (3500)"));
}

#[test]
fn sizes_and_labels_are_validated() {
    let tar = TarWriter::default().file("a", &vec![1; 20_000_000]).end();
    let lab = Lab::new();
    let with = |size, label: &str| {
        lab.import_with(&tar, &RootfsOptions { size: Some(size), label: label.to_owned() })
    };
    assert_eq!(lab.import_with(&tar, &RootfsOptions::default()).unwrap().size, 1 << 30);
    let info = with(2 << 30, "root").unwrap();
    assert_eq!(info.size, 2 << 30);
    assert!(lab.debugfs("stats -h").contains("root"));
    fs::remove_file(lab.image()).unwrap();
    for (size, label) in
        [(1 << 20, ""), ((1 << 30) + 1, ""), (1 << 60, ""), (1 << 30, "a label too long for it")]
    {
        let error = with(size, label).unwrap_err();
        assert!(matches!(error, ImageError::Geometry { .. }), "{error:?}");
        assert_eq!(error.kind(), FailureKind::Invalid);
    }
    for size in [20 << 20, 24 << 20] {
        match with(size, "") {
            Err(ImageError::TooSmall { needed, .. }) => assert!(needed > 20_000_000),
            Ok(_) if size == 24 << 20 => fs::remove_file(lab.image()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_small_entries_fit_into_the_default_size() {
    let mut tar = TarWriter::default();
    for i in 0..30_000 {
        match i % 3 {
            0 => tar.directory(&format!("f{}/d{i}", i % 7)),
            1 => tar.symlink(&format!("f{}/s{i}", i % 7), &"long/".repeat(19)),
            _ => tar.file(&format!("f{}/{i}", i % 7), b"x"),
        };
    }
    let lab = Lab::new();
    assert_eq!(lab.import_with(&tar.end(), &RootfsOptions::default()).unwrap().entries, 30_007);
}

#[test]
fn hard_links_over_the_ext4_limit_are_rejected() {
    let mut tar = TarWriter::default();
    tar.file("a", b"");
    for i in 0..65_000 {
        tar.hard_link(&format!("l/{i}"), "a");
    }
    let (_, problem) = problem(Lab::new().import(&tar.end()));
    assert_eq!(problem, EntryProblem::TooManyLinks(65_000));
}

#[test]
fn a_cancelled_import_leaves_no_files() {
    struct AlwaysCancelled;
    impl Progress for AlwaysCancelled {
        fn stage(&self, _: &str) {}
        fn bytes(&self, _: u64, _: Option<u64>) {}
        fn log(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let lab = Lab::new();
    let broken = io::Read::chain(&b"abc"[..], tempfile::tempfile().unwrap());
    let result =
        import_rootfs(broken, lab.0.path(), &lab.image(), &RootfsOptions::default(), &AlwaysCancelled);
    assert!(matches!(result, Err(ImageError::Cancelled)));
    assert_eq!(fs::read_dir(lab.0.path()).unwrap().count(), 0);
}

#[test]
fn empty_file_systems_are_small_and_pass_e2fsck() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    for size in [16 << 20, 100 << 20, 8 << 30, (128 << 30) + 4096] {
        write_empty_ext4(&lab.image(), size, "work").unwrap();
        let metadata = fs::metadata(lab.image()).unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() * 512 < 16 << 20, "{size}: {}", metadata.blocks());
        fsck(&lab.image());
        assert!(lab.debugfs("stats -h").contains("has_journal"));
        fs::remove_file(lab.image()).unwrap();
    }
    assert!(matches!(write_empty_ext4(&lab.image(), 4096, ""), Err(ImageError::Geometry { .. })));
    assert!(!lab.image().exists());
}

fn sample() -> Vec<u8> {
    let mut tar = TarWriter::default();
    tar.directory("./").symlink("bin", "usr/bin").file("usr/bin/sh", b"sh").file("bin/ls", &[3; 1500]);
    tar.hard_link("l", "bin/ls").raw(b'3', b"null", b"", 0, b"").pax(&[("SCHILY.xattr.user.a", b"1")]);
    tar.file("x", b"x").pax(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.map", b"4096,4,9000,4"),
        ("GNU.sparse.size", b"20000"),
    ]);
    tar.file("s", b"12345678").end()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn importing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = Lab::new().import(&bytes);
    }

    #[test]
    fn importing_a_changed_tar_never_panics(
        changes in proptest::collection::vec((0usize..12_000, any::<u8>()), 1..6),
    ) {
        let mut tar = sample();
        for (at, value) in changes {
            let at = at % tar.len();
            tar[at] = value;
            // Fix the checksum, so that more than its check is tested.
            let header = at / 512 * 512;
            let sum: u32 = tar[header..header + 512].iter().enumerate()
                .map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) }).sum();
            if tar[header + 257..].starts_with(b"ustar") {
                tar[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = Lab::new().import(&tar);
    }
}
