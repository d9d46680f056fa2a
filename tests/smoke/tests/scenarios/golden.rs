//! Images made on the host: from a VM's disks, by a build, from a file of the user, and by tagging.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use banger_smoke::{Host, Running, scenario};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Hardware of a small VM.
#[rustfmt::skip]
const SMALL: &[&str] = &[
    "--vcpu", "1", "--memory", "128M", "--disk-size", "64M", "--system-overlay-size", "64M",
];

fn create_vm(host: &Host, name: &str, image: &str) -> Result<()> {
    host.ok(&[&["vm", "create", "--name", name, "--image", image], SMALL].concat()).map(drop)
}

fn sh(host: &Host, vm: &str, script: &str) -> Result<String> {
    host.ok(&["vm", "exec", vm, "--", "sh", "-c", script])
}

/// Returns the output of `script` in a fresh VM of `image`.
fn run_in_fresh_vm(host: &Host, image: &str, script: &str) -> Result<String> {
    let run = [&["vm", "run", "--rm", "--image", image], SMALL, &["--", "sh", "-c", script]];
    host.ok(&run.concat())
}

/// Returns the names of all images except those of the template.
fn names(host: &Host) -> Result<Vec<String>> {
    let images = host.json(&["image", "list"])?;
    let names = images.as_array().into_iter().flatten().filter_map(|image| image["name"].as_str());
    Ok(names.filter(|name| !name.starts_with("debian")).map(str::to_owned).collect())
}

fn rootfs(host: &Host, image: &str) -> Result<std::path::PathBuf> {
    let id = host.json(&["image", "show", image])?["id"].as_str().context("id")?.to_owned();
    Ok(host.path("state/banger/images").join(id).join("rootfs.ext4"))
}

fn is_clean(host: &Host, image: &str) -> Result<()> {
    let check = Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(rootfs(host, image)?).output()?;
    ensure!(check.status.success(), "{image}: {}", String::from_utf8_lossy(&check.stdout));
    Ok(())
}

#[scenario(Here, Slow)]
fn an_image_committed_from_a_vm_contains_its_changes() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", "tiny")?;
    let change = "busybox mkdir -p /opt/d /etc; echo new > /opt/new; echo 0123 > /etc/machine-id
        busybox chmod 700 /bin; busybox ln /opt/new /opt/d/link; busybox rm /bin/sh
        busybox ln -s busybox /bin/ash; echo home > /root/file; busybox mknod /opt/null c 1 3";
    sh(&host, "box", change)?;
    host.banger(&["image", "commit", "box", "golden"])?
        .fails(1, &["is not stopped", "banger vm stop box"])?;
    host.ok(&["vm", "stop", "box"])?;
    assert_eq!(host.ok(&["image", "commit", "box", "golden"])?, "golden\n");
    host.banger(&["image", "commit", "box", "golden"])?.fails(1, &["image golden already exists"])?;
    is_clean(&host, "golden")?;
    let script =
        "busybox cat /opt/new /opt/d/link; busybox stat -c %a /bin; busybox stat -c %s /etc/machine-id
        busybox stat -c %h /opt/new; busybox ls /bin /root; busybox stat -c %t:%T /opt/null";
    let run = [&["vm", "run", "--rm", "--image", "golden"], SMALL, &["--", "ash", "-c", script]];
    assert_eq!(host.ok(&run.concat())?, "new\nnew\n700\n0\n2\n/bin:\nash\nbusybox\n\n/root:\n1:3\n");
    host.ok(&["image", "commit", "--with-home", "box", "team/golden:home"])?;
    let run = [&["vm", "run", "--rm", "--image", "team/golden:home"], SMALL];
    let cat: &[&str] = &["--", "busybox", "cat", "/root/file"];
    assert_eq!(host.ok(&[run.concat().as_slice(), cat].concat())?, "home\n");
    // The guest's kernel changes the ext4 layout when it grows a disk.
    host.ok(&["vm", "set", "--disk-size", "20G", "box"])?;
    host.ok(&["vm", "start", "box"])?;
    host.ok(&["vm", "exec", "box", "--", "busybox", "cp", "/bin/busybox", "/root/large"])?;
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["image", "commit", "--with-home", "box", "grown"])?;
    let run = [
        &["vm", "run", "--rm", "--image", "grown"],
        SMALL,
        &["--", "busybox", "cmp", "/bin/busybox", "/root/large"],
    ];
    host.ok(&run.concat())?;
    // The original image is unchanged, and the VM still works.
    assert_eq!(run_in_fresh_vm(&host, "tiny", "busybox ls /bin")?, "busybox\nsh\n");
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(host.ok(&["vm", "exec", "box", "--", "busybox", "cat", "/opt/new"])?, "new\n");
    // An image of a VM whose image was made from a VM.
    create_vm(&host, "second", "golden")?;
    host.ok(&["vm", "exec", "second", "--", "busybox", "rm", "/opt/new"])?;
    host.ok(&["vm", "stop", "second"])?;
    host.ok(&["image", "commit", "second", "third"])?;
    let run = [&["vm", "run", "--rm", "--image", "third"], SMALL, &["--", "busybox", "ls", "/opt"]];
    assert_eq!(host.ok(&run.concat())?, "d\nnull\n");
    host.banger(&["image", "delete", "golden"])?.fails(1, &["used by second"])?;
    host.ok(&["vm", "create", "--name", "never", "--image", "tiny", "--no-start"])?;
    host.banger(&["image", "commit", "never", "none"])?
        .fails(1, &["never been started", "image tag tiny none"])?;
    host.agrees()
}

#[scenario(Here)]
fn a_cancelled_commit_creates_no_image_and_keeps_the_vm() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["vm", "create", "--name", "box", "--memory", "512M"])?;
    host.ok(&["vm", "stop", "box"])?;
    let mut commit = host.start(&["image", "commit", "box", "golden"])?;
    commit.wait_for_stderr("write the file system")?;
    commit.signal(Signal::INT)?;
    commit.finish(b"")?.code(130)?;
    assert_eq!(names(&host)?, [] as [&str; 0]);
    host.agrees()?;
    host.ok(&["image", "commit", "box", "golden"])?;
    is_clean(&host, "golden")?;
    let run = ["vm", "run", "--rm", "--image", "golden", "--memory", "512M", "--", "sh", "-c"];
    let os = host.ok(&[&run[..], &["grep ^ID= /etc/os-release"]].concat())?;
    assert_eq!(os, "ID=debian\n");
    // During a commit, the VM cannot be deleted, except by force, which cancels the commit.
    let mut commit = host.start(&["image", "commit", "box", "more"])?;
    commit.wait_for_stderr("write the file system")?;
    host.banger(&["vm", "delete", "box"])?.fails(1, &["is being committed to an image"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    commit.finish(b"")?.fails(1, &["cancelled"])?;
    assert_eq!(names(&host)?, ["golden"]);
    host.nothing_left()?;
    host.agrees()
}

#[scenario(Here)]
fn images_can_be_tagged_renamed_and_deleted_by_name() -> Result<()> {
    let host = Host::tiny()?;
    create_vm(&host, "box", "tiny")?;
    assert_eq!(host.ok(&["image", "tag", "tiny", "team/base:1"])?, "team/base:1\n");
    host.ok(&["image", "tag", "team/base:1", "other"])?;
    host.banger(&["image", "tag", "tiny", "other"])?.fails(1, &["image other already exists"])?;
    let shown = host.json(&["image", "show", "other"])?;
    assert_eq!((&shown["shared"], &shown["used_by"]), (&json!(true), &json!([])));
    let listed = host.ok(&["image", "list"])?;
    assert!(listed.contains("shared") && listed.contains("box"), "{listed}");
    host.ok(&["image", "rename", "tiny", "small"])?;
    assert_eq!(host.json(&["vm", "show", "box"])?["image"], "small");
    host.banger(&["image", "rename", "small", "other"])?.fails(1, &["other already exists"])?;
    host.banger(&["image", "delete", "small", "nothing", "other", "other"])?
        .fails(1, &["used by box", "nothing"])?;
    assert_eq!(names(&host)?, ["small", "team/base:1"]);
    assert_eq!(run_in_fresh_vm(&host, "team/base:1", "echo up")?, "up\n");
    host.ok(&["vm", "delete", "--force", "box"])?;
    host.ok(&["image", "delete", "small", "team/base:1"])?;
    let events = host.ok(&["events"])?;
    assert!(events.contains("image_renamed"), "{events}");
    host.agrees()
}

#[scenario(Here, LabMore)]
fn a_registered_file_is_used_in_place_until_promoted() -> Result<()> {
    let host = Host::tiny()?;
    let file = host.path("mine.ext4");
    fs::copy(rootfs(&host, "tiny")?, &file)?;
    let path = file.display().to_string();
    let kernel = host.json(&["kernel", "show", "debian-cloud"])?["id"].as_str().context("id")?.to_owned();
    let kernel = host.path("state/banger/kernels").join(kernel).join("vmlinux").display().to_string();
    host.banger(&["image", "register", "mine", &path, "--kernel", "none"])?
        .fails(1, &["no kernel \"none\""])?;
    host.banger(&["image", "register", "mine", "/etc/passwd"])?.fails(1, &["/etc/passwd"])?;
    host.banger(&["image", "register", "mine", "/dev/null"])?.fails(1, &["not a regular file"])?;
    // Without its modules the kernel has no disk drivers, and is refused as by `kernel import`.
    host.banger(&["image", "register", "mine", &path, "--kernel", &kernel])?
        .fails(1, &["CONFIG_VIRTIO_BLK"])?;
    assert_eq!(names(&host)?, ["tiny"]);
    host.ok(&["image", "register", "mine", &path, "--kernel", "debian-cloud"])?;
    assert_eq!(host.json(&["image", "show", "mine"])?["outside"], Value::String(path.clone()));
    create_vm(&host, "box", "mine")?;
    sh(&host, "box", "echo more > /more")?;
    host.ok(&["vm", "stop", "box"])?;
    host.ok(&["image", "commit", "box", "more"])?;
    assert_eq!(run_in_fresh_vm(&host, "more", "busybox cat /more")?, "more\n");
    // Move the file away, and back.
    let away = host.path("away.ext4");
    fs::rename(&file, &away)?;
    host.banger(&["vm", "start", "box"])?.fails(1, &["is gone", &path])?;
    host.banger(&["image", "promote", "mine"])?.fails(1, &["is gone"])?;
    assert!(host.banger(&["image", "list"])?.stderr.contains("is gone"));
    fs::rename(&away, &file)?;
    assert_eq!(host.ok(&["image", "promote", "mine"])?, "mine\n");
    assert_eq!(host.json(&["image", "show", "mine"])?["outside"], Value::Null);
    fs::remove_file(&file)?;
    host.ok(&["vm", "start", "box"])?;
    assert_eq!(sh(&host, "box", "busybox cat /more")?, "more\n");
    // A file that has changed is refused.
    fs::copy(rootfs(&host, "tiny")?, &file)?;
    host.ok(&["image", "register", "written", &path])?;
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    fs::OpenOptions::new().append(true).open(&file)?.set_len(2 << 30)?;
    let run = [&["vm", "run", "--rm", "--image", "written"], SMALL, &["--", "true"]];
    host.banger(&run.concat())?.fails(125, &["has changed since it was registered"])?;
    host.ok(&["image", "delete", "written"])?;
    ensure!(file.exists(), "the user's file was deleted");
    host.agrees()
}

#[scenario(Here, Slow)]
fn an_unchanged_build_is_reused_and_a_changed_one_moves_the_name() -> Result<()> {
    let host = Host::tiny()?;
    let script = host.path("setup.sh");
    let path = script.display().to_string();
    fs::write(&script, "busybox mkdir -p /opt\necho building \"$WHAT\"\necho \"$WHAT\" > /opt/what\n")?;
    let build = |arguments: &[&str]| {
        let args = ["image", "build", "golden", "--from", "tiny", "--run", &path, "--memory", "128M"];
        host.banger(&[&args, arguments].concat())
    };
    let first = build(&["--env", "WHAT=one"])?;
    assert!(first.stderr.contains("building one"), "{first:?}");
    assert_eq!(first.success()?, "golden\n");
    host.nothing_left()?;
    assert_eq!(run_in_fresh_vm(&host, "golden", "busybox cat /opt/what")?, "one\n");
    let id = host.json(&["image", "show", "golden"])?["id"].clone();
    let again = build(&["--env", "WHAT=one"])?;
    assert!(again.stderr.contains("nothing has changed"), "{again:?}");
    assert_eq!(host.json(&["image", "show", "golden"])?["id"], id);
    // Other environment variables build another image, which replaces the first, unless a VM uses that.
    build(&["--env", "WHAT=two"])?.success()?;
    assert_eq!(run_in_fresh_vm(&host, "golden", "busybox cat /opt/what")?, "two\n");
    create_vm(&host, "box", "golden")?;
    build(&["--env", "WHAT=three"])?.fails(1, &["used by box", "image rename golden"])?;
    build(&["--env", "WHAT=two"])?.success()?;
    let other = ["image", "build", "tiny", "--from", "golden", "--run", &path];
    host.banger(&other)?.fails(1, &["not created by a build"])?;
    // A script from standard input that fails.
    let mut command =
        host.command(&["image", "build", "bad", "--from", "golden", "--memory", "128M", "--run", "-"]);
    command.current_dir(host.path(""));
    let bad = Running::start(command, "banger image build bad".to_owned())?;
    bad.finish(b"echo before\nexit 7\n")?.fails(1, &["before", "exited with status 7", "--keep"])?;
    host.ok(&["vm", "delete", "--force", "box"])?;
    // An interrupted build, and a killed one.
    fs::write(&script, "echo begun\nbusybox sleep 1000\n")?;
    for (signal, status) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let args = ["image", "build", "never", "--from", "tiny", "--run", &path, "--memory", "128M"];
        let mut build = host.start(&args)?;
        build.wait_for_stderr("begun")?;
        build.signal(signal)?;
        assert_eq!(build.finish(b"")?.status.code(), status);
        host.until("its VM is deleted", || Ok(host.json(&["ps", "-a"])? == json!([])))?;
    }
    assert_eq!(names(&host)?, ["golden", "tiny"]);
    host.nothing_left()?;
    host.agrees()
}

#[scenario(Here)]
fn cache_prune_deletes_only_unused_cached_files() -> Result<()> {
    let host = Host::tiny()?;
    assert_eq!(run_in_fresh_vm(&host, "tiny", "echo up")?, "up\n");
    let blobs = host.path("cache/banger/blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for name in ["aa", "bb.partial"] {
        fs::write(blobs.join(name), vec![1; 100_000])?;
    }
    let initrds = host.path("cache/banger/initrds");
    fs::write(initrds.join("0123456789abcdef-0123456789abcdef.cpio"), "old")?;
    let initrds = || fs::read_dir(&initrds).map(Iterator::count);
    let before = initrds()?;
    let dry = host.json(&["image", "cache", "prune", "--dry-run"])?;
    assert_eq!((dry["kinds"][0]["files"].clone(), dry["dry_run"].clone()), (json!(2), json!(true)));
    assert_eq!((initrds()?, fs::read_dir(&blobs)?.count()), (before, 2));
    let pruned = host.ok(&["image", "cache", "prune"])?;
    assert!(pruned.contains("layers") && pruned.contains("FREED"), "{pruned}");
    // The initrd in use is kept. There may have been the template's too, for another build of the agent.
    assert_eq!((initrds()?, fs::read_dir(&blobs)?.count()), (1, 0));
    assert_eq!(run_in_fresh_vm(&host, "tiny", "echo up")?, "up\n");
    Ok(())
}
