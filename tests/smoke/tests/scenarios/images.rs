//! Images of all kinds: with any init or none, and with programs missing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use banger_smoke::{Finished, Host, Running, scenario, static_busybox, tar_of, tar_with};
use serde_json::{Value, json};

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.current_dir(dir).args(args).env("GIT_CONFIG_GLOBAL", "/dev/null");
    Running::start(command, format!("git {}", args.join(" ")))?.finish(b"")?.success()
}

/// Starts a VM of `image`, with the same name.
fn boot(host: &Host, image: &str) -> Result<()> {
    host.ok(&["vm", "run", "-d", "--name", image, "--image", image, "--memory", "256M"]).map(drop)
}

/// Stops VM `vm` cleanly, by its init or by the agent.
fn stop(host: &Host, vm: &str) -> Result<()> {
    let stopped = host.banger(&["vm", "stop", "--timeout", "30s", vm])?;
    assert!(!stopped.stderr.contains("was killed"), "{}", stopped.stderr);
    stopped.success()?;
    host.disks_are_clean(vm)
}

/// Returns the output of a command in VM `vm`. Its first words name the program: a busybox or a shell.
fn output_of(host: &Host, vm: &str, words: &[&str]) -> Result<String> {
    host.ok(&[&["vm", "exec", vm, "--"], words].concat())
}

/// Checks that commands, copies and workspaces work in VM `vm`. The words in `cat` run its `cat`.
fn check_vm(host: &Host, vm: &str, cat: &[&str]) -> Result<()> {
    let exec = [&["vm", "exec", vm, "--"], cat].concat();
    assert_eq!(host.start(&exec)?.finish(b"by a pipe")?.success()?, "by a pipe");
    let [file, back] = ["file", "back"].map(|name| text(&host.path(name)));
    fs::write(&file, "copied\n")?;
    host.ok(&["vm", "cp", &file, &format!("{vm}:/tmp/file")])?;
    assert_eq!(host.ok(&[&exec[..], &["/tmp/file"]].concat())?, "copied\n");
    host.ok(&["vm", "cp", &format!("{vm}:/tmp/file"), &back])?;
    assert_eq!(fs::read_to_string(back)?, "copied\n");

    let repository = repository(host, vm)?;
    host.ok(&["vm", "workspace", "prepare", vm, &text(&repository)])?;
    assert_eq!(host.ok(&[&exec[..], &["/root/repo/file"]].concat())?, "committed\n");
    host.ok(&["vm", "cp", &file, &format!("{vm}:/root/repo/file")])?;
    let patch = host.ok(&["vm", "workspace", "export", vm])?;
    assert!(patch.contains("-committed\n+copied\n"), "{patch}");
    Ok(())
}

/// Creates a repository with one file.
fn repository(host: &Host, name: &str) -> Result<PathBuf> {
    let root = host.path(&format!("repo-{name}"));
    fs::create_dir(&root)?;
    git(&root, &["init", "-q", "-b", "main"])?;
    fs::write(root.join("file"), "committed\n")?;
    git(&root, &["add", "."])?;
    git(&root, &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "first"])?;
    Ok(root)
}

/// Waits until PID 1 of VM `vm` is `program`, because a session does not wait for it.
fn wait_for_pid_1(host: &Host, vm: &str, program: &str) -> Result<()> {
    let script = "until [ /proc/1/exe -ef \"$0\" ]; do sleep 0.2; done";
    output_of(host, vm, &["sh", "-c", script, program]).map(drop)
}

/// Runs a script from a pipe in a login shell of VM `vm`.
fn shell(host: &Host, vm: &str, script: &str) -> Result<Finished> {
    host.start(&["vm", "shell", vm])?.finish(script.as_bytes())
}

#[scenario(Here, LabMore, Slow)]
fn systemd_boots_in_an_image_of_a_real_machine() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["image", "import", "arch", &text(&host.path("arch.tar.zst"))])?;
    assert_eq!(host.json(&["image", "show", "arch"])?["init"], "/sbin/init");
    boot(&host, "arch")?;
    wait_for_pid_1(&host, "arch", "/usr/lib/systemd/systemd")?;
    let own = shell(&host, "arch", "echo $0 $HOME; id -un; exit 7\n")?;
    assert_eq!(own.code(7)?, "-bash /root\nroot\n");
    check_vm(&host, "arch", &["cat"])?;
    // Neither a missing disk nor a question on the console blocks the boot.
    let wait = "until systemctl -q is-active sysinit.target; do sleep 0.2; done; systemctl --failed --plain --no-legend";
    assert_eq!(output_of(&host, "arch", &["sh", "-c", wait])?, "");
    let fstab = output_of(&host, "arch", &["cat", "/etc/fstab"])?;
    assert!(
        fstab.lines().count() == 3 && fstab.lines().all(|line| line.starts_with("# not in this VM")),
        "{fstab}"
    );
    let id = output_of(&host, "arch", &["cat", "/etc/machine-id"])?;
    assert_eq!(id.trim().len(), 32, "{id}");
    stop(&host, "arch")?;
    host.ok(&["vm", "start", "arch"])?;
    assert_eq!(
        output_of(&host, "arch", &["cat", "/etc/machine-id", "/root/repo/file"])?,
        format!("{id}copied\n")
    );
    Ok(())
}

#[scenario(Here, LabMore)]
fn openrc_boots_under_sysvinit() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["image", "import", "openrc", &text(&host.path("openrc.tar.zst"))])?;
    assert_eq!(host.json(&["image", "show", "openrc"])?["init"], "/sbin/init");
    boot(&host, "openrc")?;
    wait_for_pid_1(&host, "openrc", "/usr/sbin/init")?;
    assert_eq!(shell(&host, "openrc", "echo $0\n")?.success()?, "-bash\n");
    check_vm(&host, "openrc", &["cat"])?;
    let up = "until [ \"$(runlevel)\" = 'N 2' ]; do sleep 0.2; done";
    output_of(&host, "openrc", &["sh", "-c", up])?;
    stop(&host, "openrc")
}

/// Imports an image with busybox under some of its names, among them `/sbin/init`, and with these files.
fn import_busybox(host: &Host, name: &str, files: &[(&str, &str)]) -> Result<()> {
    let tar = host.path("busybox.tar");
    let mut contents = vec![("bin/busybox", static_busybox()?)];
    contents.extend(files.iter().map(|(path, content)| (*path, content.as_bytes().to_vec())));
    let files: Vec<_> = contents.iter().map(|(path, content)| (*path, content.as_slice())).collect();
    let applets = ["sh", "cat", "mkdir", "reboot", "getty", "sleep"].map(|applet| format!("bin/{applet}"));
    let mut links: Vec<_> = applets.iter().map(|path| (path.as_str(), "busybox")).collect();
    if !files.iter().any(|(path, _)| *path == "sbin/init") {
        links.push(("sbin/init", "/bin/busybox"));
    }
    tar_of(&tar, &files, &links)?;
    host.ok(&["image", "import", name, &text(&tar)]).map(drop)
}

#[scenario(Here, LabMore)]
fn busybox_init_runs_only_if_its_inittab_programs_exist() -> Result<()> {
    let host = Host::new()?;
    let openrc_inittab =
        "::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\ntty1::respawn:/bin/getty 38400 tty1\n";
    import_busybox(&host, "alpine", &[("etc/inittab", openrc_inittab)])?;
    assert_eq!(host.json(&["image", "show", "alpine"])?["init"], Value::Null);
    boot(&host, "alpine")?;
    assert_eq!(
        shell(&host, "alpine", "echo $0 $((40 + 2)); cat /proc/1/comm\n")?.success()?,
        "-sh 42\ninit\n"
    );
    check_vm(&host, "alpine", &["cat"])?;
    stop(&host, "alpine")?;

    let script = "#!/bin/sh\necho up > /tmp/up\n";
    let inittab = "::sysinit:/etc/init.d/rcS\n::ctrlaltdel:/bin/reboot\n";
    import_busybox(&host, "busybox", &[("etc/inittab", inittab), ("etc/init.d/rcS", script)])?;
    assert_eq!(host.json(&["image", "show", "busybox"])?["init"], "/sbin/init");
    boot(&host, "busybox")?;
    let up = "until [ -s /tmp/up ]; do sleep 0.1; done; cat /tmp/up";
    assert_eq!(output_of(&host, "busybox", &["sh", "-c", up])?, "up\n");
    check_vm(&host, "busybox", &["cat"])?;
    stop(&host, "busybox")
}

#[scenario(Here, LabMore)]
fn a_script_can_be_init_and_a_broken_init_is_skipped() -> Result<()> {
    let host = Host::new()?;
    import_busybox(&host, "script", &[("sbin/init", "#!/bin/sh\nwhile :; do sleep 1; done\n")])?;
    boot(&host, "script")?;
    assert_eq!(shell(&host, "script", "echo $0\n")?.success()?, "-sh\n");
    stop(&host, "script")?;
    import_busybox(&host, "broken", &[("sbin/init", "#!/no/such/interpreter\n")])?;
    boot(&host, "broken")?;
    assert!(host.ok(&["vm", "logs", "broken"])?.contains("cannot run /sbin/init, continuing without it"));
    assert_eq!(shell(&host, "broken", "echo $0\n")?.success()?, "-sh\n");
    stop(&host, "broken")
}

/// Writes an image in the format of `docker save`, with the root file system in `tar`.
fn write_docker_archive(host: &Host, tar: &Path, config: &Value) -> Result<PathBuf> {
    let sum = Running::start(
        {
            let mut sum = Command::new("sha256sum");
            sum.arg(tar);
            sum
        },
        "sha256sum".to_owned(),
    )?;
    let sum = sum.finish(b"")?.success()?;
    let layer = format!("sha256:{}", sum.split(' ').next().context("a sum")?);
    let rootfs = json!({"type": "layers", "diff_ids": [layer]});
    let config = json!({"os": "linux", "architecture": "amd64", "config": config, "rootfs": rootfs});
    let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}]);
    let (config, manifest, layer) = (config.to_string(), manifest.to_string(), fs::read(tar)?);
    let files: [(&str, &[u8]); 3] =
        [("manifest.json", manifest.as_bytes()), ("config.json", config.as_bytes()), ("layer.tar", &layer)];
    let path = host.path("saved.tar");
    tar_of(&path, &files, &[])?;
    Ok(path)
}

#[scenario(Here, LabMore)]
fn an_image_with_only_one_program_runs_as_configured() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("app.tar");
    tar_of(&tar, &[("app/busybox", &static_busybox()?)], &[])?;
    let config = json!({
        "Entrypoint": ["/app/busybox"], "Cmd": ["env"], "User": "65532:65533", "WorkingDir": "/app",
        "Env": ["PATH=/opt", "GREETING=hello", "HOME=/nowhere"],
    });
    host.ok(&["image", "import", "app", &text(&write_docker_archive(&host, &tar, &config)?)])?;
    let shown = host.ok(&["image", "show", "app"])?;
    assert!(shown.contains("entrypoint:   /app/busybox\n") && shown.contains("GREETING=hello"), "{shown}");

    let run = |arguments: &[&str]| {
        host.ok(&[&["vm", "run", "--rm", "--image", "app", "--memory", "256M"], arguments].concat())
    };
    let env = run(&[])?;
    for line in ["PATH=/opt", "GREETING=hello", "HOME=/", "USER=65532"] {
        assert!(env.lines().any(|printed| printed == line), "no {line} in {env}");
    }
    let ids = run(&[
        "--entrypoint",
        "/app/busybox",
        "--env",
        "GREETING=mine",
        "--",
        "sh",
        "-c",
        "/app/busybox id -u; /app/busybox id -g; pwd; echo $GREETING",
    ])?;
    assert_eq!(ids, "65532\n65533\n/app\nmine\n");

    boot(&host, "app")?;
    check_vm(&host, "app", &["/app/busybox", "cat"])?;
    shell(&host, "app", "")?.fails(125, &["the image has no shell", "/bin/sh nor any of bash"])?;
    assert_eq!(output_of(&host, "app", &["/app/busybox", "hostname"])?, "app\n");
    stop(&host, "app")
}

#[scenario(Here, LabMore)]
fn commands_use_the_images_user_and_directory_and_shells_use_root() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("tree.tar");
    tar_with(&tar, &[])?;
    let config = json!({"Cmd": ["sh"], "User": "7", "WorkingDir": "/bin", "Env": ["PATH=/bin:/of/image"]});
    host.ok(&["image", "import", "tree", &text(&write_docker_archive(&host, &tar, &config)?)])?;
    let run = ["vm", "run", "--image", "tree", "--memory", "256M"];
    let command = ["--rm", "--", "sh", "-c", "pwd; id -u; echo $PATH"];
    assert_eq!(host.ok(&[&run[..], &command].concat())?, "/bin\n7\n/bin:/of/image\n");
    let shell = host.start(&[&run[..], &["--name", "box"]].concat())?;
    assert_eq!(shell.finish(b"pwd; id -u; echo $PATH; exit 3\n")?.code(3)?, "/root\n0\n/bin:/of/image\n");
    let with_env = ["vm", "exec", "--env", "PATH=/bin:/mine", "box", "--", "sh", "-c", "echo $PATH"];
    assert_eq!(host.ok(&with_env)?, "/bin:/mine\n");
    let repository = text(&repository(&host, "tree")?);
    let with_path = [&run[..], &["--rm", &repository, "--", "sh", "-c", "pwd; id -u; echo $PATH"]].concat();
    assert_eq!(host.ok(&with_path)?, "/root/repo\n0\n/bin:/of/image\n");
    Ok(())
}
