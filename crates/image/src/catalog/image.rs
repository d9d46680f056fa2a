//! Builds images from Debian packages with `mmdebstrap`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Recipe, sources};
use crate::error::IoContext;
use crate::program::{HostCommand, Rights, find};
use crate::{ImageError, Progress, RootfsInfo, RootfsOptions, import_rootfs};

/// Timeout for downloading, unpacking and configuring all packages.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// dpkg path filters. They exclude manuals, translations and documentation, but keep licences, which are required.
const PATH_FILTERS: [&str; 4] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Builds the image of `recipe` as an ext4 file `out`, from current packages. `work` holds temporary files.
///
/// `mmdebstrap` runs as root, or for other users in a user namespace with the user's range of ids. Packages come from
/// `BANGER_DEBIAN_MIRROR` if that is set, else from the package sources of this host if it runs Debian (any release),
/// else from `mmdebstrap`'s default mirror. The image keeps these sources for its own apt.
///
/// # Errors
/// Returns an error if `mmdebstrap` or a program that it needs is not installed, if it fails, or if it runs for over
/// 30 minutes; else as [`import_rootfs`].
pub fn fetch_image(
    recipe: &Recipe,
    work: &Path,
    out: &Path,
    progress: &dyn Progress,
) -> Result<RootfsInfo, ImageError> {
    progress.stage("install packages");
    find_mmdebstrap()?;
    let mut program = HostCommand::new("mmdebstrap", TIMEOUT, Rights::User)?.with_network();
    let root = rustix::process::geteuid().is_root();
    let command = program.command();
    command.arg(if root { "--mode=root" } else { "--mode=unshare" });
    if root {
        // The caller removes leftovers. In a user namespace, mmdebstrap cannot access a user's private directory.
        command.env("TMPDIR", std::path::absolute(work).during("find", work)?);
    }
    command
        .arg(format!("--variant={}", recipe.variant))
        .arg(format!("--include={}", recipe.packages.join(",")));
    command.arg("--format=tar").arg(r#"--aptopt=APT::Install-Recommends "false""#);
    command.args(PATH_FILTERS.map(|path| format!("--dpkgopt={path}")));
    command.arg(&recipe.suite).arg("-").args(sources::lines(&recipe.suite));
    let options = RootfsOptions::default();
    program.run(progress, |tar| import_rootfs(tar, work, out, &options, progress))
}

/// Returns the path of `mmdebstrap`, for a user who can run it: users other than root need `newuidmap` and subordinate
/// ids. Without them, `mmdebstrap` would fail later with a less clear message.
///
/// # Errors
/// Returns [`ImageError::MissingProgram`] or [`ImageError::NoSubordinateIds`].
pub fn find_mmdebstrap() -> Result<PathBuf, ImageError> {
    let path = find("mmdebstrap")?;
    if rustix::process::geteuid().is_root() {
        return Ok(path);
    }
    find("newuidmap")?;
    let user = rustix::process::getuid().as_raw();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let passwd = read("/etc/passwd");
    let has_ids = |path| has_subordinate_ids(&read(path), user, &passwd);
    if has_ids("/etc/subuid") && has_ids("/etc/subgid") {
        return Ok(path);
    }
    Err(ImageError::NoSubordinateIds)
}

/// Returns whether a text of subuid(5) assigns ids to `user`, by number or by the name in the text `passwd` of passwd(5).
fn has_subordinate_ids(subordinate: &str, user: u32, passwd: &str) -> bool {
    let user = user.to_string();
    let is_user = |line: &&str| line.split(':').nth(2) == Some(&user);
    let name = passwd.lines().find(is_user).and_then(|line| line.split(':').next());
    let mut owners = subordinate.lines().filter_map(|line| line.split(':').next());
    owners.any(|owner| owner == user || Some(owner) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";
        let subuid = "ann:100000:65536\n1001:165536:65536\n";
        for (user, expected) in [(1000, true), (1001, true), (1002, false), (0, false)] {
            assert_eq!(has_subordinate_ids(subuid, user, passwd), expected, "{user}");
        }
        assert!(!has_subordinate_ids("", 1000, passwd));
        assert!(!has_subordinate_ids(subuid, 1000, ""));
    }
}
