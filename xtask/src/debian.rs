//! Builds small Debian root file systems of the machine's own release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command::check;

/// Returns the machine's release: its apt sources have no other, and the programs are built against its libc.
pub(crate) fn suite() -> Result<String> {
    codename(&fs::read_to_string("/etc/os-release").context("/etc/os-release")?)
}

/// Builds a tar of Debian's minimal variant with `packages` (separated by commas). Before packing, `change` runs: a
/// shell script whose argument is the root directory.
pub(crate) fn bootstrap(suite: &str, packages: &str, change: Option<&str>, tar: &Path) -> Result<()> {
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase", "--include", packages]);
    // The tree is archived and then deleted, so dpkg need not sync it to disk.
    mmdebstrap.arg("--dpkgopt=force-unsafe-io");
    mmdebstrap.args(change.map(|change| format!("--customize-hook={change}"))).arg(suite).arg(tar);
    // The machine's own sources name a mirror that it can reach.
    check(mmdebstrap.args(apt_sources()?))
}

fn codename(os_release: &str) -> Result<String> {
    let suite = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(suite.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

fn apt_sources() -> Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in entries {
            files.push(entry?.path());
        }
    }
    // Like apt, which ignores files with other extensions.
    let has_apt_extension = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "list" || extension == "sources")
    };
    files.retain(|file| has_apt_extension(file) && fs::metadata(file).is_ok_and(|file| file.len() > 0));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").unwrap(), "bookworm");
        assert!(codename("ID=arch\n").is_err());
    }
}
