//! Images from registries: real ones, filled by real tools, with a password, and behind a proxy that fails.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use banger_smoke::{
    Forwarding, Host, Proxy, Registry, Running, layout, run, scenario, static_busybox, tar_of,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Name of the image. No registry has this name: the configuration sets a mirror for it.
const IMAGE: &str = "registry.test/team/box";

/// Size of the large layer, in bytes.
const LARGE_SIZE: usize = 24 << 20;

/// Configures `registry` as the mirror of `registry.test` and of the default registry.
fn configure(host: &Host, registry: std::net::SocketAddr) -> Result<()> {
    let entry = |name: &str| format!("[[registry]]\nhost = '{name}'\nmirrors = ['http://{registry}']\n");
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/config.toml"), entry("registry.test") + &entry("docker.io"))?;
    Ok(())
}

/// Returns three layers: a base, a layer that replaces and deletes files, and a large layer that does not compress.
fn layers(host: &Host) -> Result<Vec<PathBuf>> {
    let [base, upper, large] = ["base.tar", "upper.tar", "large.tar"].map(|name| host.path(name));
    let busybox = static_busybox()?;
    tar_of(
        &base,
        &[("bin/busybox", &busybox), ("etc/gone", b"1"), ("etc/motd", b"below")],
        &[("bin/sh", "busybox")],
    )?;
    tar_of(&upper, &[("etc/motd", b"above"), ("etc/.wh.gone", b""), ("srv/.keep", b"")], &[])?;
    tar_of(&large, &[("srv/noise", &noise())], &[])?;
    Ok(vec![base, upper, large])
}

/// Returns bytes that do not compress.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(LARGE_SIZE / 8).flatten().collect()
}

/// Starts a registry with the image, tagged 1 and latest.
fn start_filled_registry(host: &Host) -> Result<Registry> {
    let registry = Registry::start(None)?;
    let config = ["--config.env", "COLOUR=red", "--config.workingdir", "/srv", "--config.cmd", "/bin/sh"];
    let image = layout(&host.path("layout"), &layers(host)?, &config)?;
    registry.push(&image, "team/box:1", &[])?;
    registry.push(&image, "team/box:latest", &[])?;
    registry.push(&image, "library/box:latest", &[])?;
    Ok(registry)
}

/// Checks the contents of the image in a VM.
fn check_in_vm(host: &Host, image: &str) -> Result<()> {
    let script = "busybox cat /etc/motd; busybox ls /etc/gone; busybox stat -c %s /srv/noise";
    let seen = host.banger(&["vm", "run", "--rm", "--image", image, "--", "sh", "-c", script])?;
    ensure!(seen.stdout == format!("above{LARGE_SIZE}\n"), "{}: {}", seen.stdout, seen.stderr);
    Ok(())
}

fn images(host: &Host) -> Result<Vec<Value>> {
    let list = host.json(&["image", "list"])?;
    let images = list.as_array().context("no list")?;
    Ok(images.iter().filter(|image| image["source"] == "registry").cloned().collect())
}

#[scenario(Here)]
fn images_are_pulled_from_a_registry_and_layers_are_reused() -> Result<()> {
    let host = Host::new()?;
    let registry = start_filled_registry(&host)?;
    let proxy = Proxy::start(registry.address(), Forwarding::All)?;
    configure(&host, proxy.address())?;
    // Without an explicit pull, and by the short name.
    let ran = host.banger(&["vm", "run", "--rm", "--image", "box", "--", "busybox", "cat", "/etc/motd"])?;
    ensure!(ran.stderr.contains("image box is not in the store yet"), "{}", ran.stderr);
    assert_eq!(ran.success()?, "above");
    check_in_vm(&host, "docker.io/library/box:latest")?;
    // The same layers under another name, and an unchanged tag: no layer is downloaded again.
    let before = proxy.forwarded();
    assert_eq!(host.ok(&["image", "pull", &format!("{IMAGE}:1")])?, format!("{IMAGE}:1\n"));
    host.ok(&["image", "pull", "box"])?;
    let downloaded = proxy.forwarded() - before;
    ensure!(downloaded < 64 << 10, "{downloaded} bytes");
    let shown = host.json(&["image", "show", &format!("{IMAGE}:1")])?;
    assert_eq!((&shown["reference"], &shown["shared"]), (&json!(format!("{IMAGE}:1")), &json!(true)));
    assert_eq!(shown["config"], json!({"env": ["COLOUR=red"], "working_dir": "/srv", "cmd": ["/bin/sh"]}));
    let pinned = format!("{IMAGE}@{}", shown["digest"].as_str().context("no digest")?);
    host.ok(&["image", "pull", &pinned])?;
    assert_eq!(images(&host)?.len(), 3);
    for (image, reason) in [
        (&format!("{}/none", registry.address())[..], "does not have none/manifests/latest"),
        (&format!("{}/team/box:2", registry.address()), "does not have team/box/manifests/2"),
        ("127.0.0.1:1/box", "cannot reach 127.0.0.1:1"),
    ] {
        let failed = host.banger(&["image", "pull", image])?;
        ensure!(!failed.status.success() && failed.stderr.contains(reason), "{image}: {}", failed.stderr);
    }
    host.nothing_left()
}

#[scenario(Here)]
fn images_of_buildah_and_skopeo_are_pulled_and_imported() -> Result<()> {
    let host = Host::new()?;
    let registry = start_filled_registry(&host)?;
    configure(&host, registry.address())?;
    let busybox = host.path("busybox");
    fs::write(&busybox, static_busybox()?)?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))?;
    let recipe =
        "FROM scratch\nCOPY busybox /bin/busybox\nENV COLOUR=blue\nWORKDIR /work\nCMD [\"/bin/busybox\"]\n";
    fs::write(host.path("Containerfile"), recipe)?;
    let buildah = |args: &[&str]| {
        let stores = ["--root", "stores", "--runroot", "stores-run", "--storage-driver", "vfs"];
        run(host.tool("buildah").current_dir(host.path("")).args(stores).args(args))
    };
    buildah(&["build", "--quiet", "--isolation", "chroot", "--tag", "localhost/built", "."])?;
    let to = format!("docker://{}/team/built:1", registry.address());
    buildah(&["push", "--quiet", "--tls-verify=false", "localhost/built", &to])?;
    let ran = host.ok(&[
        "vm",
        "run",
        "--rm",
        "--image",
        "registry.test/team/built:1",
        "--",
        "/bin/busybox",
        "echo",
        "hi",
    ])?;
    assert_eq!(ran, "hi\n");
    assert_eq!(
        host.json(&["image", "show", "registry.test/team/built:1"])?["config"]["working_dir"],
        "/work"
    );
    // As an archive, and compressed as a stream.
    let copy = |to: &str, path: &Path| {
        let from = format!("oci:{}:x", host.path("layout").display());
        run(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "--quiet",
            &from,
            &format!("{to}:{}", path.display()),
        ]))
    };
    let (oci, docker) = (host.path("oci.tar"), host.path("docker.tar"));
    copy("oci-archive", &oci)?;
    copy("docker-archive", &docker)?;
    host.ok(&["image", "import", "from-oci", &oci.display().to_string()])?;
    check_in_vm(&host, "from-oci")?;
    run(Command::new("zstd").args(["-q", "--rm"]).arg(&docker))?;
    let compressed = fs::read(host.path("docker.tar.zst"))?;
    host.start(&["image", "import", "from-docker", "-"])?.finish(&compressed)?.success()?;
    check_in_vm(&host, "from-docker")?;
    for name in ["from-oci", "from-docker"] {
        assert_eq!(host.json(&["image", "show", name])?["config"]["env"][0], "COLOUR=red", "{name}");
    }
    Ok(())
}

#[scenario(Here)]
fn registry_logins_come_from_the_users_docker_configuration() -> Result<()> {
    let host = Host::new()?;
    let users = host.path("users");
    let htpasswd = Command::new("htpasswd").args(["-nbB", "me", "secret"]).output().context("htpasswd")?;
    fs::write(&users, htpasswd.stdout)?;
    let registry = Registry::start(Some(&users))?;
    let image = layout(&host.path("layout"), &layers(&host)?, &[])?;
    registry.push(&image, "team/box:1", &["--dest-creds", "me:secret"])?;
    let name = format!("{}/team/box:1", registry.address());
    let refused = host.banger(&["image", "pull", &name])?;
    ensure!(refused.stderr.contains("docker login"), "{}", refused.stderr);
    // First a wrong password, then the login that skopeo saves.
    let logins = host.path(".docker/config.json");
    fs::create_dir_all(host.path(".docker"))?;
    fs::write(
        &logins,
        json!({"auths": {registry.address().to_string(): {"auth": "bWU6d3Jvbmc="}}}).to_string(),
    )?;
    let refused = host.banger(&["image", "pull", &name])?;
    ensure!(!refused.status.success() && !refused.stderr.contains("wrong"), "{}", refused.stderr);
    let login = ["login", "--tls-verify=false", "-u", "me", "-p", "secret", "--authfile"];
    run(Command::new("skopeo").args(login).arg(&logins).arg(registry.address().to_string()))?;
    host.ok(&["image", "pull", &name])?;
    host.ok(&["image", "delete", &name])?;
    // Also if only a catalog refers to the registry.
    let entry = format!(
        "[[image]]\nname = 'ours'\ndescription = 'Ours'\ndistro = 'busybox'\nsize = '10M'\n\
         source = [{{ oci = '{name}' }}]\n"
    );
    fs::create_dir_all(host.path("config/banger"))?;
    fs::write(host.path("config/banger/catalog.toml"), entry)?;
    assert_eq!(host.ok(&["image", "pull", "ours"])?, "ours\n");
    let bin = host.path("bin");
    fs::create_dir_all(&bin)?;
    let helper = bin.join("docker-credential-test");
    fs::write(&helper, "#!/bin/sh\nread server\necho '{\"Username\": \"me\", \"Secret\": \"secret\"}'\n")?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    fs::write(&logins, r#"{"credsStore": "test"}"#)?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let mut pull = host.command(&["image", "pull", &name]);
    pull.env("PATH", path);
    run(&mut pull)?;
    let log = host.ok(&["daemon", "logs"])?;
    ensure!(!log.contains("secret"), "{log}");
    Ok(())
}

#[scenario(Here)]
fn a_pull_resumes_after_broken_connections() -> Result<()> {
    let host = Host::new()?;
    let registry = start_filled_registry(&host)?;
    let proxy = Proxy::start(registry.address(), Forwarding::BreakAfter(8 << 20))?;
    let image = format!("{}/team/box", proxy.address());
    host.ok(&["image", "pull", &image])?;
    check_in_vm(&host, &image)?;
    // Only bytes that were in transit when a connection broke are sent twice.
    ensure!(proxy.forwarded() < 2 * LARGE_SIZE as u64, "{} bytes", proxy.forwarded());
    Ok(())
}

#[scenario(Here)]
fn existing_vms_keep_their_image_when_a_tag_moves() -> Result<()> {
    let host = Host::new()?;
    let registry = start_filled_registry(&host)?;
    configure(&host, registry.address())?;
    let create = ["vm", "create", "--no-start", "--image", IMAGE, "--name"];
    host.ok(&[&create[..], &["old"]].concat())?;
    let old = host.json(&["image", "show", IMAGE])?;
    let other = layout(&host.path("other"), &[host.path("base.tar")], &[])?;
    registry.push(&other, "team/box:latest", &[])?;
    // A local image is only updated by an explicit pull.
    host.ok(&[&create[..], &["same"]].concat())?;
    host.ok(&["image", "pull", IMAGE])?;
    let new = host.json(&["image", "show", IMAGE])?;
    assert_ne!(new["id"], old["id"]);
    let kept = format!("{IMAGE}@{}", old["digest"].as_str().context("no digest")?);
    assert_eq!(host.json(&["image", "show", &kept])?["used_by"], json!(["old", "same"]));
    assert_eq!(host.json(&["vm", "show", "old"])?["image"], kept);
    // A replaced image is deleted if no VM uses it.
    registry.push(&format!("oci:{}:x", host.path("layout").display()), "team/box:latest", &[])?;
    host.ok(&["vm", "delete", "old", "same"])?;
    host.ok(&["image", "pull", IMAGE])?;
    let names: Vec<_> = images(&host)?.iter().map(|image| image["name"].clone()).collect();
    assert_eq!(names, [format!("{IMAGE}:latest"), kept]);
    Ok(())
}

#[scenario(Here)]
fn parallel_pulls_share_a_download_and_a_cancelled_pull_resumes() -> Result<()> {
    let host = Host::new()?;
    let registry = start_filled_registry(&host)?;
    let proxy = Proxy::start(registry.address(), Forwarding::BlockAfter(4 << 20))?;
    configure(&host, proxy.address())?;
    let first = host.start(&["image", "pull", IMAGE])?;
    proxy.wait_for(4 << 20);
    let second = host.start(&["image", "pull", IMAGE])?;
    host.until("both operations have started", || {
        let operations = host.json(&["operations"])?;
        Ok(operations.as_array().is_some_and(|all| all.len() == 2))
    })?;
    proxy.set_forwarding(Forwarding::All);
    first.finish(b"")?.success()?;
    second.finish(b"")?.success()?;
    ensure!(proxy.forwarded() < 2 * LARGE_SIZE as u64, "{} bytes", proxy.forwarded());
    assert_eq!(images(&host)?.len(), 1);
    // A cancelled pull keeps its downloaded bytes for the next pull.
    host.ok(&["image", "delete", IMAGE])?;
    fs::remove_dir_all(host.path("cache/banger/blobs"))?;
    let start = proxy.forwarded();
    proxy.set_forwarding(Forwarding::BlockAfter(start + (16 << 20)));
    let stopped = host.start(&["image", "pull", IMAGE])?;
    proxy.wait_for(start + (16 << 20));
    stopped.signal(Signal::INT)?;
    proxy.set_forwarding(Forwarding::All);
    assert_eq!(stopped.finish(b"")?.status.code(), Some(130));
    host.ok(&["image", "pull", IMAGE])?;
    let downloaded = proxy.forwarded() - start;
    ensure!(downloaded < (LARGE_SIZE + (LARGE_SIZE >> 1)) as u64, "{downloaded} bytes");
    Ok(())
}

/// Returns the total size of a directory's files, in bytes.
fn total_size(directory: &Path) -> Result<u64> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[scenario(Here)]
fn a_daemon_killed_during_a_pull_leaves_no_partial_image() -> Result<()> {
    let host = Host::new()?.with_fail_points()?;
    let registry = start_filled_registry(&host)?;
    let proxy = Proxy::start(registry.address(), Forwarding::All)?;
    configure(&host, proxy.address())?;
    let pull_and_kill = |point: Option<&str>, at: Option<u64>| -> Result<()> {
        let mut command = host.command(&["image", "pull", IMAGE]);
        command.envs(point.map(|point| ("BANGER_FAIL_POINT", point)));
        host.ok(&["daemon", "stop"])?;
        proxy.set_forwarding(at.map_or(Forwarding::All, |at| Forwarding::BlockAfter(proxy.forwarded() + at)));
        let until = proxy.forwarded() + at.unwrap_or(0);
        let pull = Running::start(command, "banger image pull".to_owned())?;
        if at.is_some() {
            proxy.wait_for(until);
            let pid = rustix::process::Pid::from_raw(host.daemon_pid()?).context("pid")?;
            rustix::process::kill_process(pid, Signal::KILL)?;
            proxy.set_forwarding(Forwarding::All);
        }
        let finished = pull.finish(b"")?;
        ensure!(!finished.status.success(), "{point:?} {at:?}: it was not killed");
        Ok(())
    };
    let check_and_pull = || -> Result<u64> {
        assert_eq!(images(&host)?, [] as [Value; 0], "half-published");
        let remaining = fs::read_dir(host.path("state/banger/images"))?.count();
        assert_eq!(remaining, 1, "exactly the incomplete image is removed");
        let before = proxy.forwarded();
        host.ok(&["image", "pull", IMAGE])?;
        let image = host
            .path("state/banger/images")
            .join(host.json(&["image", "show", IMAGE])?["id"].as_str().unwrap());
        run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(image.join("rootfs.ext4")))?;
        host.ok(&["image", "delete", IMAGE])?;
        Ok(proxy.forwarded() - before)
    };
    let blobs = host.path("cache/banger/blobs");
    for at in [1 << 20, 10 << 20, 20 << 20] {
        pull_and_kill(None, Some(at))?;
        // The other bytes that the proxy forwarded were still in socket buffers.
        let kept = total_size(&blobs.join("sha256"))?;
        ensure!(kept > 0 || at < 20 << 20, "no downloaded data was kept");
        let downloaded = check_and_pull()?;
        let rest = (LARGE_SIZE + (LARGE_SIZE >> 2)) as u64 - kept;
        ensure!(
            downloaded < rest,
            "killed at {at} with {kept} bytes, {downloaded} were downloaded afterwards"
        );
        fs::remove_dir_all(&blobs)?;
    }
    for point in
        ["stage/query the registry", "stage/pull", "stage/write the file system", "image/insert:before"]
    {
        pull_and_kill(Some(point), None).with_context(|| point.to_owned())?;
        check_and_pull().with_context(|| point.to_owned())?;
    }
    pull_and_kill(Some("image/insert:after"), None)?;
    check_in_vm(&host, IMAGE)
}

/// Pulls with caches and state on disks of these sizes in MiB, in a private mount namespace. Only the last pull
/// succeeds; after the others, no file of an image may be left.
const ON_SMALL_DISKS: &str = "set -e
    mount -t tmpfs -o size=8m none \"$XDG_CACHE_HOME\"
    mount -t tmpfs -o size=100m none \"$XDG_STATE_HOME\"
    pull() {
        mount -o remount,size=\"$1\"m \"$XDG_CACHE_HOME\"
        mount -o remount,size=\"$2\"m \"$XDG_STATE_HOME\"
        status=0
        \"$banger\" image pull \"$image\" >&2 || status=$?
        echo \"pulled: $status\"
    }
    left() { find \"$XDG_STATE_HOME/banger\" -path '*/images/*'; }
    pull 8 100; left
    pull 8 1000; left
    pull 100 400; left
    pull 100 1000; left
    pull 100 4000
    \"$banger\" image list
    \"$banger\" daemon stop >&2";

#[scenario(Here)]
fn a_pull_onto_a_full_disk_fails_and_leaves_no_files() -> Result<()> {
    let host = Host::bare()?;
    let registry = Registry::start(None)?;
    let [small, large] = ["small.tar", "large.tar"].map(|name| host.path(name));
    tar_of(&small, &[("srv/noise", &noise())], &[])?;
    tar_of(&large, &[("srv/sevens", &vec![7; 600 << 20])], &[])?;
    registry.push(&layout(&host.path("layout"), &[small, large], &[])?, "team/large:1", &[])?;
    configure(&host, registry.address())?;
    let banger = host.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", ON_SMALL_DISKS]);
    command.envs(banger.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("banger", banger.get_program()).env("image", "registry.test/team/large:1");
    let pulls = Running::start(command, "pulls onto full disks".to_owned())?.finish(b"")?;
    let lines: Vec<_> = pulls.stdout.lines().collect();
    let [failed @ .., done, _, image] = &lines[..] else { panic!("{pulls:?}") };
    assert_eq!(failed, ["pulled: 1"; 4], "{pulls:?}");
    assert_eq!(*done, "pulled: 0", "{pulls:?}");
    assert!(image.starts_with("registry.test/team/large:1 "), "{pulls:?}");
    // Before the download, during it, during unpacking, and before writing the image.
    let errors: Vec<_> = pulls.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 4, "{pulls:?}");
    assert!(errors.iter().all(|line| line.contains("not enough space")), "{pulls:?}");
    Ok(())
}
