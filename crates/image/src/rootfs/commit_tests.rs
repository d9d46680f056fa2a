//! Compares commits with the kernel's overlayfs, if run as root, and reads disks that no kernel has written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::{DiskProblem, ImageError, Silent};

/// The disks of a VM, and a directory to mount them in.
struct Lab(tempfile::TempDir);

/// A script that creates the image's files, before the VM changes them.
const BASE: &str = r#"
    mkdir -p etc/ssh var/lib/dbus root home usr/bin deep/er/est kept gone swapped turned many lost
    echo old > changed; echo same > same; echo below > deep/er/est/below; echo x > gone/x; echo y > swapped/y
    echo file > to-directory; echo mode > mode; echo renamed > renamed; echo owned > owned
    echo linked > link1; ln link1 link2; ln link1 deep/link3; ln -s same symlink; ln -s "$(printf 'l%.0s' $(seq 100))" long
    printf 'PRETTY_NAME="Base 1"\n' > etc/os-release; echo 0123 > etc/machine-id; echo key > etc/ssh/ssh_host_rsa_key
    mkfifo fifo; mknod device c 10 200; mknod block b 7 300; cp /bin/true usr/bin/able; chmod 4755 usr/bin/able
    truncate -s 20M sparse; printf middle | dd of=sparse bs=1 seek=9000000 conv=notrunc status=none
    head -c 3000000 /dev/urandom > big; echo seed > root/seed
    seq -f 'many/a file with a long name %g' 2000 | xargs -d '\n' touch
    setfattr -n user.kept -v value same; setcap cap_net_raw+ep usr/bin/able; setfacl -m u:1000:rw mode
    setfattr -n user.big -v "$(printf 'v%.0s' $(seq 3000))" renamed
"#;

/// A script for the VM's changes, of every kind that overlayfs records.
const CHANGES: &str = r#"
    echo new >> changed; rm -r gone; rm -r swapped; mkdir swapped; echo z > swapped/z
    rm to-directory; mkdir to-directory; echo in > to-directory/in; rm -r turned; echo turned > turned
    chmod 600 mode; chown 1000:1001 owned; mv renamed deep/renamed; mv deep/er/est/below deep/er/above
    echo more >> link1; ln link2 link4; ln changed changed2; rm deep/link3; rm symlink; ln -s changed symlink
    mkdir -p new/a/b/c; echo deep > new/a/b/c/d; mkfifo new/fifo; mknod new/device c 240 70000; mknod new/null c 1 3
    truncate -s 30M new/sparse; printf end >> new/sparse; head -c 5000000 /dev/urandom > new/random
    printf X | dd of=big bs=1 seek=1000000 conv=notrunc status=none; truncate -s 1000 sparse
    setfattr -n user.added -v 1 same; setfattr -x user.kept same; setfattr -n trusted.mine -v 2 same
    setcap cap_net_admin+ep usr/bin/able; setfacl -m u:1001:r owned; setfacl -d -m g:5:rwx new
    rm 'many/a file with a long name 7'; touch 'many/an other'; touch -d '2001-02-03 04:05:06.789 UTC' kept/time
    touch "$(printf 'n%.0s' $(seq 255))"; echo own > etc/machine-id; echo key > etc/ssh/ssh_host_ed25519_key
    echo public > etc/ssh/ssh_host_ed25519_key.pub; echo id > var/lib/dbus/machine-id; rmdir lost; mkdir lost
    mv deep/er/est deep/moved 2>/dev/null || cp -a deep/er/est deep/moved
    fallocate -l 1M new/allocated; ln -s "$(printf 'm%.0s' $(seq 2000))" new/long; chmod 1777 home; touch -h -d @1 new
"#;

impl Lab {
    fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        ["base", "overlay", "work"].iter().for_each(|disk| {
            write_empty_ext4(&lab.path(disk), 256 << 20, disk).unwrap();
        });
        ["b", "o", "m", "w"].iter().for_each(|dir| fs::create_dir(lab.path(dir)).unwrap());
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `script` in its own mount namespace, and returns its output.
    fn run_isolated(&self, script: &str) -> String {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "bash", "-euc", script]).current_dir(self.0.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}\n{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    }

    fn disks(&self, home: bool) -> Disks {
        let [base, overlay, work] = ["base", "overlay", "work"].map(|disk| self.path(disk));
        Disks { base, overlay, home: home.then_some(work) }
    }

    fn commit(&self, home: bool) -> Result<RootfsInfo, ImageError> {
        let options = RootfsOptions { size: Some(512 << 20), label: String::new() };
        let result = commit_rootfs(&self.disks(home), &self.path("image"), &options, &Silent);
        if result.is_ok() {
            let fsck = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(self.path("image")).output().unwrap();
            assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        }
        result
    }
}

/// Returns shell lines that run `script` in the directory `dir`.
fn in_directory(dir: &str, script: &str) -> String {
    format!("( cd {dir}; {script} )\n")
}

/// Returns shell lines that mount the VM's root at `m`, as the agent does.
fn with_mounted_root(script: &str) -> String {
    let options = "lowerdir=b,upperdir=o/upper,workdir=o/work,redirect_dir=off,metacopy=off,index=off";
    format!(
        "mount -o loop,ro base b; mount -o loop overlay o; mkdir -p o/upper o/work; chmod 755 o/upper
        mount -t overlay overlay -o {options} m\n{}umount m o b\n",
        in_directory("m", script)
    )
}

/// A script that prints everything about a tree: type, mode, owner, size, links, time, target, attributes, content.
const LIST_TREE: &str = r#"
    find . -path ./lost+found -prune -o \( -type d -printf '%p %y %m %U:%G %T@\n' -o -type c -printf '%p %y %m %U:%G %T@ ' \
        -exec stat -c '%t:%T' {} + -o -type b -printf '%p %y %m %U:%G %T@ ' -exec stat -c '%t:%T' {} + \
        -o -printf '%p %y %m %U:%G %s %n %T@ %l\n' \) | sort
    find . -path ./lost+found -prune -o -type f -links +1 -printf '%i %p\n' | sort -k2 |
        awk '{ if (!($1 in first)) first[$1] = $2; print "link", $2, first[$1] }'
    find . -path ./lost+found -prune -o -print0 | sort -z | xargs -0 getfattr -h -d -m - --absolute-names 2>/dev/null
    find . -path ./lost+found -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
"#;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_commit_matches_the_kernels_overlayfs() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.run_isolated(&format!("mount -o loop base b; {} umount b", in_directory("b", BASE)));
    lab.run_isolated(&with_mounted_root(CHANGES));
    let expected = lab.run_isolated(&with_mounted_root(&format!(
        "rm etc/ssh/ssh_host_*; rm var/lib/dbus/machine-id; : > etc/machine-id
        touch -d @0 etc etc/machine-id etc/ssh var/lib/dbus; {LIST_TREE}"
    )));
    // The listing was made without the files that a commit leaves out. Put them back.
    lab.run_isolated(&with_mounted_root("echo own > etc/machine-id; touch etc/ssh/ssh_host_rsa_key var/lib/dbus/machine-id; chmod 600 etc/machine-id; chmod 644 etc/machine-id"));
    let info = lab.commit(false).unwrap();
    assert_eq!(info.os.as_deref(), Some("Base 1"));
    let first = fs::read(lab.path("image")).unwrap();
    let committed = lab.run_isolated(&format!(
        "mount -o loop,rw image m; touch -d @0 m/etc m/etc/machine-id m/etc/ssh m/var/lib/dbus; {} umount m",
        in_directory("m", LIST_TREE)
    ));
    assert_same_listing(&expected, &committed);
    for part in
        ["./deep/moved", "security.capability=", "system.posix_acl_default=", "user.added=", "link ./link4"]
    {
        assert!(expected.contains(part), "the listing lacks {part}");
    }
    assert!(expected.lines().count() > 4000);
    // Holes are preserved.
    let blocks = |path: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap());
    assert!(blocks(&lab.path("image")) < (40 << 20) / 512);
    lab.commit(false).unwrap();
    let again = fs::read(lab.path("image")).unwrap();
    assert!(first == again, "the same disks gave different bytes");
}

/// Fails with the first lines that differ.
fn assert_same_listing(expected: &str, committed: &str) {
    let differing = expected.lines().zip(committed.lines()).filter(|(a, b)| a != b);
    let first: Vec<_> = differing.take(5).collect();
    assert!(first.is_empty(), "overlay, image: {first:#?}");
    assert_eq!(expected.lines().count(), committed.lines().count());
}

#[test]
fn with_home_the_work_disk_replaces_roots_home() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    lab.run_isolated(&format!(
        "mount -o loop base b; {} umount b",
        in_directory("b", "mkdir root; echo image > root/seed")
    ));
    lab.run_isolated(&with_mounted_root("echo under > root/under"));
    lab.run_isolated(&format!(
        "mount -o loop work w; chmod 700 w; {} umount w",
        in_directory("w", "echo work > seed; mkdir repo")
    ));
    let names = |lab: &Lab| {
        lab.run_isolated(
            "mount -o loop,ro image m; cd m/root; stat -c %a .; find . | sort; cat seed; cd ../..; umount m",
        )
    };
    lab.commit(false).unwrap();
    assert_eq!(names(&lab), "755\n.\n./seed\n./under\nimage\n");
    lab.commit(true).unwrap();
    assert_eq!(names(&lab), "700\n.\n./repo\n./seed\nwork\n");
}

#[test]
fn the_journal_of_a_killed_vms_disk_is_replayed_before_the_commit() {
    if !is_root() {
        return;
    }
    let lab = Lab::new();
    // Copied while mounted, so that the journal is not replayed yet.
    lab.run_isolated("mount -o loop overlay o; mkdir o/upper; echo there > o/upper/file; sync; cp overlay copy; umount o; mv copy overlay");
    let bytes = File::open(lab.path("overlay")).unwrap();
    assert!(matches!(crate::ext4::Ext4::open(&bytes), Err(DiskProblem::Unclean)));
    lab.commit(false).unwrap();
    assert_eq!(lab.run_isolated("mount -o loop,ro image m; cat m/file; umount m"), "there\n");
}

#[test]
fn unsupported_overlayfs_features_are_rejected() {
    if !is_root() {
        return;
    }
    for attribute in ["redirect", "metacopy", "whiteout"] {
        let lab = Lab::new();
        lab.run_isolated(&format!(
            "mount -o loop overlay o; mkdir -p o/upper/d; setfattr -n trusted.overlay.{attribute} -v /x o/upper/d; umount o"
        ));
        let error = lab.commit(false).unwrap_err();
        assert!(matches!(error, ImageError::Disk { source: DiskProblem::Unsupported(_), .. }), "{error:?}");
    }
    // Attributes that an overlayfs inside the VM has set belong to the VM.
    let lab = Lab::new();
    lab.run_isolated(
        "mount -o loop overlay o; mkdir -p o/upper/d
        setfattr -n trusted.overlay.overlay.opaque -v y o/upper/d; setfattr -n trusted.overlay.origin -v y o/upper/d; umount o",
    );
    lab.commit(false).unwrap();
    let xattrs =
        lab.run_isolated("mount -o loop,ro image m; getfattr -d -m trusted m/d | grep trusted; umount m");
    assert_eq!(xattrs, "trusted.overlay.overlay.opaque=\"y\"\n");
}

/// Creates an image with mke2fs, with blocks of `block` bytes and these `features`.
fn create_ext4(dir: &Path, block: &str, features: &str, size: &str) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("base"));
    let script =
        "mkdir -p tree/d; echo hello > tree/d/f; ln -s f tree/d/l; head -c 300000 /dev/urandom > tree/r
        seq -f 'tree/d/a file with a long name %g' 500 | xargs -d '\n' touch
        mkdir -p tree/upper/d; echo above > tree/upper/d/f; ln tree/upper/d/f tree/upper/l; mknod tree/upper/r p";
    let status = Command::new("bash").args(["-euc", script]).current_dir(dir).status().unwrap();
    assert!(status.success());
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-b", block, "-O", features, "-d"]).arg(&tree).arg(&image).arg(size);
    mke2fs.stdout(Stdio::null());
    assert!(mke2fs.status().unwrap().success());
    image
}

#[test]
fn file_systems_created_by_mke2fs_are_read() {
    // 1 KiB of group descriptors covers 16 groups, or 128 MiB. With 600M, further descriptors are elsewhere.
    let meta = "meta_bg,^resize_inode";
    for (block, features, size) in [
        ("1024", "64bit", "8M"),
        ("2048", "^metadata_csum,^64bit", "8M"),
        ("4096", "64bit", "8M"),
        ("1024", meta, "600M"),
        ("4096", meta, "8M"),
    ] {
        let lab = Lab::new();
        fs::remove_file(lab.path("base")).unwrap();
        create_ext4(lab.0.path(), block, features, size);
        let info = lab.commit(false).unwrap();
        assert_eq!(info.entries, 509, "{block} {features}");
        let image = mkext4::reader::Fs::open(File::open(lab.path("image")).unwrap()).unwrap();
        let read = |path: &str| image.read_file(image.resolve(path).unwrap()).unwrap();
        assert_eq!(read("/d/f"), b"hello\n");
        assert!(read("/r") == fs::read(lab.path("tree/r")).unwrap());
    }
}

/// Returns the offset of the inode of `path` in the image, in bytes.
fn inode_at(image: &Path, path: &str) -> u64 {
    let request = format!("imap {path}");
    let output = Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(image).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |text: &str, word: &str| text.split_once(word).unwrap().1.trim().to_owned();
    let (block, offset) = (after(&text, "at block "), after(&text, "offset 0x"));
    let block: u64 = block.split(',').next().unwrap().parse().unwrap();
    block * 4096 + u64::from_str_radix(&offset, 16).unwrap()
}

/// Reads an image of mke2fs after `damage` has changed it.
fn merge_damaged(damage: impl FnOnce(&Path, &File)) -> Result<(), ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = create_ext4(dir.path(), "4096", "64bit", "8M");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    damage(&path, &file);
    overlay::merged(&[overlay::Disk::open(&path, &file)?], &Silent).map(drop)
}

fn is_damaged(result: Result<(), ImageError>, part: &str) -> bool {
    matches!(result, Err(ImageError::Disk { source: DiskProblem::Damaged { what, .. }, .. }) if what == part)
}

#[test]
fn directory_cycles_are_rejected() {
    let cycle = merge_damaged(|path, _| {
        let link = Command::new("/usr/sbin/debugfs")
            .args(["-w", "-R", "link /upper /upper/d/again"])
            .arg(path)
            .output();
        assert!(link.unwrap().status.success());
    });
    assert!(is_damaged(cycle, "directory"));
}

#[test]
fn extent_trees_with_repeated_blocks_are_rejected() {
    /// Offset of the extents in an inode (Linux, Documentation/filesystems/ext4/inodes.rst), in bytes.
    const EXTENTS: u64 = 0x28;
    let node = |entries: u16, depth: u16, entry: [u8; 12]| {
        let mut bytes = Vec::new();
        [0xf30a, entries, 340, depth, 0, 0].iter().for_each(|word: &u16| bytes.extend(word.to_le_bytes()));
        (0..entries).for_each(|_| bytes.extend(entry));
        bytes
    };
    // An index entry: its first block, and the block of the node below.
    let index = |below: u32| [[0; 4], below.to_le_bytes(), [0; 4]].concat().try_into().unwrap();
    // An extent of one block.
    let leaf = [[0; 4], [1, 0, 0, 0], [100, 0, 0, 0]].concat().try_into().unwrap();
    // As many steps as a tree of depth five has leaves, also if the leaves are empty.
    for leaves in [1, 0] {
        let bomb = merge_damaged(|path, file| {
            let last = 2047;
            file.write_all_at(&node(leaves, 0, leaf), last * 4096).unwrap();
            for depth in 1..5 {
                let below = index(2048 - u32::from(depth));
                file.write_all_at(&node(340, depth, below), (last - u64::from(depth)) * 4096).unwrap();
            }
            file.write_all_at(&node(4, 5, index(2043)), inode_at(path, "/r") + EXTENTS).unwrap();
        });
        assert!(is_damaged(bomb, "extent tree"), "{leaves}");
    }
}

#[test]
fn truncated_disks_and_other_file_systems_are_rejected() {
    let lab = Lab::new();
    let refused = |lab: &Lab| match lab.commit(false) {
        Err(ImageError::Disk { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let base = || OpenOptions::new().write(true).open(lab.path("base")).unwrap();
    base().set_len(128 << 20).unwrap();
    assert!(matches!(refused(&lab), DiskProblem::Short { .. }));
    base().set_len(100).unwrap();
    assert!(matches!(refused(&lab), DiskProblem::NotExt4));
    let ext3 = ["-q", "-t", "ext3", "-F"];
    assert!(
        Command::new("/usr/sbin/mke2fs")
            .args(ext3)
            .arg(lab.path("base"))
            .arg("32M")
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(refused(&lab), DiskProblem::Unsupported(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A guest that damages its disk causes at most an error in the reader, with or without checksums.
    #[test]
    fn damaged_disks_are_merged_or_rejected(
        changes in prop::collection::vec((0..600_usize, 0..4096_usize, any::<u32>()), 1..12),
        block in prop::sample::select(vec!["1024", "4096"]),
    ) {
        thread_local! {
            static IMAGES: std::cell::RefCell<std::collections::HashMap<&'static str, tempfile::TempDir>> = Default::default();
        }
        let bytes = IMAGES.with_borrow_mut(|images| {
            let dir = images.entry(block).or_insert_with(|| {
                let dir = tempfile::tempdir().unwrap();
                create_ext4(dir.path(), block, "64bit", "8M");
                dir
            });
            fs::read(dir.path().join("base")).unwrap()
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // Change only blocks with data: the others are never read.
        let used: Vec<_> = bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)).collect();
        for (nth, at, value) in changes {
            let (block, _) = used[nth % used.len()];
            file.write_all_at(&value.to_le_bytes(), (block * 4096 + at / 4 * 4) as u64).unwrap();
        }
        // The image's directory `upper` is used as an upper layer on top of the image.
        let both = [(); 2].map(|()| overlay::Disk::open(&path, &file));
        if let [Ok(base), Ok(upper)] = both
            && let Ok(tree) = overlay::merged(&[base, upper], &Silent)
        {
            prop_assert!(tree.len() > 0);
        }
    }
}
