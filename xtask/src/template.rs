//! Folders with the default image and kernel in them, which every scenario starts from.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    command::{check, say},
    project::Project,
};

/// The folder, with `state`, `cache` and `config` in it.
pub(crate) fn folder(project: &Project) -> PathBuf {
    project.target().join("template")
}

/// Makes the folder unless it is there.
pub(crate) fn prepare(project: &Project) -> Result<()> {
    let template = folder(project);
    if template.exists() {
        return Ok(());
    }
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
    fs::rename(&partial, &template).with_context(|| template.display().to_string())
}
