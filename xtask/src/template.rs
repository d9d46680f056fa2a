//! What every scenario starts from: folders with the default image and kernel in them, and tars of systems.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{check, say},
    debian,
    project::Project,
};

/// Systems that are as installed there, each with Debian's packages for it and a script that changes it. On the machine
/// itself, they would be started.
const SYSTEMS: [(&str, &str, Option<&str>); 3] = [
    ("sshd", "openssh-server", None),
    ("arch", "dbus,systemd,systemd-sysv,udev", Some(include_str!("arch.sh"))),
    // Debian's services take a minute to start without KVM.
    ("openrc", "openrc,sysvinit-core", Some("cd \"$1\"; rm -f etc/runlevels/*/* etc/init.d/*.sh")),
];

/// The folder, with `state`, `cache`, `config` and the tars in it.
pub(crate) fn folder(project: &Project) -> PathBuf {
    project.target().join("template")
}

/// Makes what is not there.
pub(crate) fn prepare(project: &Project) -> Result<()> {
    let template = folder(project);
    if !template.exists() {
        fetch(project, &template)?;
    }
    for (name, packages, change) in SYSTEMS {
        let tar = template.join(format!("{name}.tar.zst"));
        if !tar.exists() {
            say(format!("making a system with {packages} for the scenarios"));
            // What packs it goes by the name's end.
            let partial = template.join(format!("partial-{name}.tar.zst"));
            debian::bootstrap(&debian::suite()?, packages, change, &partial)?;
            fs::rename(&partial, &tar).with_context(|| tar.display().to_string())?;
        }
    }
    Ok(())
}

fn fetch(project: &Project, template: &Path) -> Result<()> {
    say("fetching the image and the kernel for the scenarios");
    // It gets its name when it is complete.
    let partial = template.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    // A socket's path may have 107 bytes at most, and the workspace may be anywhere.
    let runtime = tempfile::Builder::new().prefix("xtask-").tempdir_in("/tmp")?;
    let banger = |arguments: &[&str]| {
        let mut banger = Command::new(project.programs().join("banger"));
        banger.args(arguments).env("XDG_RUNTIME_DIR", runtime.path());
        for (variable, name) in
            [("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config")]
        {
            banger.env(variable, partial.join(name));
        }
        check(&mut banger)
    };
    for name in ["state", "cache", "config"] {
        fs::create_dir_all(partial.join(name))?;
    }
    let pulled = banger(&["image", "pull", "debian-bookworm"])
        .and_then(|()| banger(&["kernel", "pull", "debian-cloud"]));
    let stopped = banger(&["daemon", "stop"]);
    pulled.and(stopped)?;
    fs::rename(&partial, template).with_context(|| template.display().to_string())
}
