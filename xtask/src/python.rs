//! Installs the packages of the Python client that a scenario runs.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    command::{check, say},
    project::Project,
};

/// Installs the packages of `tests/python/requirements.txt` into `target/python`, once for each version of that file.
/// The directory gets its final name when it is complete.
pub(crate) fn install(project: &Project) -> Result<()> {
    let packages = project.target().join("python");
    let requirements = project.root().join("tests/python/requirements.txt");
    let wanted = fs::read(&requirements).with_context(|| requirements.display().to_string())?;
    if fs::read(packages.join("requirements.txt")).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    say("installing the packages of the Python client for the scenarios");
    fs::create_dir_all(project.target()).with_context(|| project.target().display().to_string())?;
    let partial = tempfile::Builder::new().prefix("python-").tempdir_in(project.target())?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action",
        "ignore",
    ]);
    pip.arg("--requirement").arg(&requirements);
    check(pip.arg("--target").arg(partial.path()))?;
    fs::write(partial.path().join("requirements.txt"), wanted).context("cannot write requirements.txt")?;
    if packages.exists() {
        fs::remove_dir_all(&packages).with_context(|| packages.display().to_string())?;
    }
    fs::rename(partial.keep(), &packages).with_context(|| packages.display().to_string())
}
