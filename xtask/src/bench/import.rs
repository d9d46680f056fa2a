//! Measures the import of an image against tar and mke2fs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{measure::timed, stage::Stage};
use crate::{
    command::{as_root, check, say},
    debian,
    project::Project,
};

/// Unpacks a Debian, copies its own files until it has about 1 GB, and packs it again.
const FILL: &str = "set -eu
    rm -rf \"$2\"; mkdir \"$2\"
    tar -x --numeric-owner --exclude='./dev/*' -C \"$2\" -f \"$1\"
    number=0
    while [ \"$(du -sm \"$2\" | cut -f1)\" -lt 1000 ]; do
        number=$((number + 1))
        cp -a \"$2/usr\" \"$2/copy$number\"
    done
    tar -c --numeric-owner -C \"$2\" -f \"$3\" .
    rm -rf \"$2\"";

/// The same import with standard tools.
const BY_HAND: &str = "set -eu
    mkdir \"$2/root\"
    tar -x --numeric-owner -C \"$2/root\" -f \"$1\"
    mke2fs -q -F -t ext4 -d \"$2/root\" \"$2/root.ext4\" 2G
    sync \"$2/root.ext4\"";

const NAME: &str = "bench";

/// Returns a tar of a Debian of about 1 GB, which is created once.
pub(super) fn tar(project: &Project) -> Result<PathBuf> {
    let tar = project.target().join("bench/debian.tar");
    if tar.exists() {
        return Ok(tar);
    }
    say("creating a tar archive of 1 GB");
    fs::create_dir_all(project.target().join("bench"))?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(project.target().join("bench"))?;
    let (small, large) = (partial.path().join("small.tar"), partial.path().join("large.tar"));
    debian::bootstrap(&debian::suite()?, "perl", None, &small)?;
    let fill = ["-c", FILL, "fill"];
    check(as_root("sh")?.args(fill).arg(small).arg(partial.path().join("root")).arg(&large))?;
    fs::rename(&large, &tar).with_context(|| tar.display().to_string())?;
    Ok(tar)
}

/// Measures `banger image import`. The image is deleted afterwards, which is not measured.
pub(super) fn banger(stage: &Stage, tar: &Path) -> Result<Duration> {
    let elapsed = timed(stage.banger(&["image", "import", NAME]).arg(tar))?;
    stage.ok(&["image", "delete", NAME])?;
    Ok(elapsed)
}

pub(super) fn bare(project: &Project, tar: &Path) -> Result<Duration> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
    let start = Instant::now();
    check(as_root("sh")?.args(["-c", BY_HAND, "by-hand"]).arg(tar).arg(dir.path()))?;
    let elapsed = start.elapsed();
    // The files belong to a user namespace's users, so only its root can delete them.
    check(as_root("rm")?.arg("-rf").arg(dir.path().join("root")))?;
    Ok(elapsed)
}
