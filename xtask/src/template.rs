//! What every scenario starts from: folders with the default image and kernel in them, and a tar of a system with an sshd.

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

/// The tar's name in the folder.
const SSHD: &str = "sshd.tar.zst";

/// The folder, with `state`, `cache`, `config` and the tar in it.
pub(crate) fn folder(project: &Project) -> PathBuf {
    project.target().join("template")
}

/// Makes what is not there.
pub(crate) fn prepare(project: &Project) -> Result<()> {
    let template = folder(project);
    if !template.exists() {
        fetch(project, &template)?;
    }
    let sshd = template.join(SSHD);
    if sshd.exists() { Ok(()) } else { bootstrap_sshd(&sshd) }
}

/// Makes a Debian with an sshd that is as installed there: on the machine itself, one would be started.
fn bootstrap_sshd(tar: &Path) -> Result<()> {
    say("making a system with an sshd for the scenarios");
    // What packs it goes by the name's end.
    let partial = tar.with_file_name(format!("partial-{SSHD}"));
    debian::bootstrap(&debian::suite()?, "openssh-server", &partial)?;
    fs::rename(&partial, tar).with_context(|| tar.display().to_string())
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
