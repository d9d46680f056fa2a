//! Real trees: archived by the real tar, converted to a file system, and compared entry by entry through the kernel.
//!
//! GNU tar compares the mounted file system with its archive (`--compare`): types, modes, owners, sizes, times,
//! contents, links and devices. The rest, extended attributes and surplus entries, is compared as lists of both
//! sides. The test mounts as root, in its own mount namespace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::Path;
use std::process::Command;

use banger_image::{RootfsOptions, Silent, import_rootfs_file};

/// A name, a shell script that creates a tree in the current directory, and options for tar.
type Tree = (&'static str, &'static str, &'static [&'static str]);

const TREES: &[Tree] = &[
    (
        "a Debian system",
        "mkdir -p usr/lib var/lib && cp -a /etc . && cp -a /usr/sbin usr && mkdir usr/bin && cp -a /usr/lib/git-core usr/lib
         cp -a /var/lib/dpkg var/lib && ln -s usr/bin bin && ln -s usr/sbin sbin",
        &["--format=gnu"],
    ),
    (
        "a busybox system",
        "mkdir -p bin sbin etc/init.d proc sys dev tmp root && chmod 1777 tmp && chmod 700 root
         cp /usr/bin/busybox bin/busybox && for name in $(busybox --list | grep -vx busybox); do ln -f bin/busybox bin/$name; done
         echo '::sysinit:/etc/init.d/rcS' > etc/inittab && ln -s ../bin/busybox sbin/init",
        &["--format=ustar"],
    ),
    (
        "hard links",
        "mkdir -p a/b c && echo one > a/one && ln a/one a/b/two && ln a/one c/three && ln -s one a/link
         ln a/link c/link && mkfifo a/fifo && ln a/fifo c/fifo && for i in $(seq 500); do ln a/one c/$i; done",
        &["--format=gnu"],
    ),
    (
        "capabilities and attributes",
        "echo > ping && setcap cap_net_raw,cap_net_admin+ep ping && echo > note && setfattr -n user.comment -v hello note
         mkdir shared && setfacl -m u:1000:rwx,d:g:50:rx shared && echo > large
         setfattr -n user.large -v $(head -c 3000 /dev/zero | tr '\\0' x) large && setfattr -n trusted.t -v 0x00ff large",
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--acls"],
    ),
    (
        "devices",
        "mknod null c 1 3 && mknod -m 600 disk b 259 1048575 && mknod far c 4095 70000 && mkfifo -m 640 pipe && mknod zero c 1 5",
        &["--format=gnu"],
    ),
    (
        "a hundred thousand files in a directory",
        "mkdir many && cd many && seq -f 'file-%06g' 100000 | xargs touch -d @1700000000 && echo x > file-050000",
        &["--format=gnu"],
    ),
    (
        "long and odd names",
        "long=$(head -c 255 /dev/zero | tr '\\0' n) && echo x > $long && ln -s $long to-long
         deep=$(seq 100 | tr '\\n' /) && mkdir -p $deep$long && echo deep > $deep$long/file
         touch -- -dash ' space ' 'new
line' 'quo\"te' \"it's\" 'star*' 'back\\slash' '%s' .hidden ...dots 'ünï©ødé' '日本語' '~' '#' 'a:b' CON README readme",
        &["--format=posix"],
    ),
    (
        "sparse files",
        "truncate -s 300M hole && printf end >> hole && truncate -s 10M holes && for at in 0 1000000 5000001 9999999; do
         printf x | dd of=holes bs=1 seek=$at conv=notrunc status=none; done
         head -c 3000000 /dev/zero > zeros && truncate -s 200M all-hole && touch empty",
        &["--format=gnu", "--sparse"],
    ),
    (
        "sparse files in POSIX format",
        "truncate -s 100M hole && printf x | dd of=hole bs=1 seek=50000000 conv=notrunc status=none && echo plain > plain",
        &["--format=posix", "--sparse"],
    ),
    (
        "times",
        "touch -d '1960-05-05 05:05:05.5 UTC' old && touch -d '2200-01-01 UTC' late && touch -d '@0' epoch
         touch -d '2023-11-14 22:13:20.123456789 UTC' exact && mkdir d && ln -s x link && touch -h -d @1000000000 link
         touch -d @1234567890 d",
        &["--format=posix"],
    ),
    (
        "owners and modes",
        "for mode in 0000 0111 0644 0777 1777 2755 4755 6711 7777; do touch f$mode && mkdir d$mode && chown 4294967290:70000 f$mode d$mode
         chmod $mode f$mode d$mode; done; touch u && chown 65534:2147483648 u",
        &["--format=posix"],
    ),
    (
        "large and small contents",
        "head -c 67108901 /dev/urandom > large && for size in 0 1 59 60 61 4095 4096 4097 65536; do head -c $size /dev/urandom > s$size; done",
        &["--format=gnu"],
    ),
    (
        "symbolic links",
        "for length in 1 59 60 61 1000 4000; do ln -s $(head -c $length /dev/zero | tr '\\0' t | fold -w 200 | paste -sd/) l$length; done
         ln -s /etc/passwd absolute && ln -s loop loop && ln -s ../../.. up && ln -s nowhere dangling",
        &["--format=posix"],
    ),
];

/// A script that compares the mount with the archive, and its names and attributes with the tree's.
const COMPARE: &str = r#"
    mount -o loop,ro "$1" "$2"
    cd "$2"
    tar --compare --numeric-owner --absolute-names --file "$3"
    list() { find . -path ./lost+found -prune -o -print0 | LC_ALL=C sort -z | tr '\0' '\1'; }
    attributes() { getfattr --recursive --physical --no-dereference --dump --match=- --encoding=hex . 2>/dev/null | sed '/^# file: lost+found$/,/^$/d'; }
    list > "$5/names" && attributes | sort > "$5/attributes"
    cd "$4"
    list | cmp - "$5/names" && attributes | sort | cmp - "$5/attributes"
"#;

#[test]
fn imported_trees_match_their_archives() {
    assert!(rustix::process::geteuid().is_root(), "mounting requires root");
    let failures: Vec<String> = TREES.iter().filter_map(|tree| check(tree).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn check((name, make, options): &Tree) -> Result<(), String> {
    let lab = tempfile::tempdir().unwrap();
    let [tree, mount, lists, tar, image] =
        ["tree", "mount", "lists", "tree.tar", "image"].map(|name| lab.path().join(name));
    for dir in [&tree, &mount, &lists] {
        std::fs::create_dir(dir).unwrap();
    }
    run(Command::new("bash").args(["-euc", make]).current_dir(&tree), name)?;
    run(
        Command::new("tar")
            .args(*options)
            .args(["--numeric-owner", "-cf"])
            .arg(&tar)
            .arg(".")
            .current_dir(&tree),
        name,
    )?;
    let file = File::open(&tar).unwrap();
    import_rootfs_file(file, lab.path(), &image, &RootfsOptions::default(), &Silent)
        .map_err(|error| format!("{name}: {error:?}"))?;
    run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&image), name)?;
    let paths: [&Path; 5] = [&image, &mount, &tar, &tree, &lists];
    run(Command::new("unshare").args(["--mount", "--", "bash", "-euc", COMPARE, "compare"]).args(paths), name)
}

fn run(command: &mut Command, name: &str) -> Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("{name}: {command:?}: {stdout}{stderr}"))
}
