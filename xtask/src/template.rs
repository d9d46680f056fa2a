//! Prepares what every scenario starts from: the default image and kernel, and tars of root file systems.

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
    python,
};

/// Root file systems: name, Debian packages, and a script that changes the tree. If the packages were installed on
/// the machine itself, their services would start.
const SYSTEMS: [(&str, &str, Option<&str>); 3] = [
    ("sshd", "openssh-server", None),
    ("arch", "dbus,systemd,systemd-sysv,udev", Some(include_str!("arch.sh"))),
    // Debian's services take a minute to start without KVM.
    ("openrc", "openrc,sysvinit-core", Some("cd \"$1\"; rm -f etc/runlevels/*/* etc/init.d/*.sh")),
];

/// Returns the template's directory, with `state`, `cache`, `config` and the tars.
pub(crate) fn dir(project: &Project) -> PathBuf {
    project.target().join("template")
}

/// Prepares the template. The directory gets its final name when it is complete.
pub(crate) fn prepare(project: &Project) -> Result<()> {
    build_systems(project)?;
    python::install(project)?;
    let template = dir(project);
    if template.exists() {
        return Ok(());
    }
    let partial = partial(project);
    fetch(project, &partial)?;
    fs::rename(&partial, &template).with_context(|| template.display().to_string())
}

/// Builds missing root file systems, which needs none of banger's programs.
pub(crate) fn build_systems(project: &Project) -> Result<()> {
    let template = dir(project);
    let dir = if template.exists() { template } else { partial(project) };
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    for (name, packages, change) in SYSTEMS {
        let tar = dir.join(format!("{name}.tar.zst"));
        if !tar.exists() {
            say(format!("creating a system with {packages} for the scenarios"));
            // mmdebstrap chooses the compression by the file name's extension.
            let partial = dir.join(format!("partial-{name}.tar.zst"));
            debian::bootstrap(&debian::suite()?, packages, change, &partial)?;
            fs::rename(&partial, &tar).with_context(|| tar.display().to_string())?;
        }
    }
    Ok(())
}

fn partial(project: &Project) -> PathBuf {
    dir(project).with_extension("partial")
}

/// Pulls the default image and kernel into a directory.
fn fetch(project: &Project, dir: &Path) -> Result<()> {
    say("fetching the image and the kernel for the scenarios");
    let banger = |arguments: &[&str]| {
        let mut banger = Command::new(project.programs().join("banger"));
        banger.args(arguments);
        for (variable, name) in
            [("XDG_STATE_HOME", "state"), ("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config")]
        {
            banger.env(variable, dir.join(name));
        }
        check(&mut banger)
    };
    for name in ["state", "cache", "config"] {
        let part = dir.join(name);
        // Left by an interrupted run.
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)?;
    }
    let pulled = banger(&["image", "pull", "debian-bookworm"])
        .and_then(|()| banger(&["kernel", "pull", "debian-cloud"]));
    let stopped = banger(&["daemon", "stop"]);
    pulled.and(stopped)
}
