//! Builds images from Debian packages with `mmdebstrap`.

use std::fs;
use std::path::Path;
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
    let mut program = HostCommand::new("mmdebstrap", TIMEOUT, Rights::User)?.with_network();
    let root = rustix::process::geteuid().is_root();
    if !root {
        require_user_namespaces()?;
    }
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

/// Checks for user namespace support, where `mmdebstrap` would fail later with a less clear message.
fn require_user_namespaces() -> Result<(), ImageError> {
    find("newuidmap")?;
    let user = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = fields.find(|fields| fields.get(2).is_some_and(|id| *id == user.to_string()));
    let name = name.and_then(|fields| fields.first().map(|name| (*name).to_owned()));
    let listed = |file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split(':').next())
            .any(|owner| Some(owner) == name.as_deref() || owner == user.to_string())
    };
    if listed("/etc/subuid") && listed("/etc/subgid") {
        return Ok(());
    }
    Err(ImageError::NoSubordinateIds)
}
