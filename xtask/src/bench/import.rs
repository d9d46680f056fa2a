//! An image's import, beside what a person would do by hand.

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

/// Unpacks a Debian, fills it up with copies of its own files to about 1 GB, and packs it again.
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

/// What a person would do by hand.
const BY_HAND: &str = "set -eu
    mkdir \"$2/root\"
    tar -x --numeric-owner -C \"$2/root\" -f \"$1\"
    mke2fs -q -F -t ext4 -d \"$2/root\" \"$2/root.ext4\" 2G
    sync \"$2/root.ext4\"";

const NAME: &str = "bench";

/// A Debian of about 1 GB, made once.
pub(super) fn tar(project: &Project) -> Result<PathBuf> {
    let tar = project.target().join("bench/debian.tar");
    if tar.exists() {
        return Ok(tar);
    }
    say("making a tar of 1 GB");
    fs::create_dir_all(project.target().join("bench"))?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(project.target().join("bench"))?;
    let (small, large) = (partial.path().join("small.tar"), partial.path().join("large.tar"));
    debian::bootstrap(&debian::suite()?, "perl", None, &small)?;
    let fill = ["-c", FILL, "fill"];
    check(as_root("sh")?.args(fill).arg(small).arg(partial.path().join("root")).arg(&large))?;
    fs::rename(&large, &tar).with_context(|| tar.display().to_string())?;
    Ok(tar)
}

/// The image is deleted again, which is not measured.
pub(super) fn banger(stage: &Stage, tar: &Path) -> Result<Duration> {
    let taken = timed(stage.banger(&["image", "import", NAME]).arg(tar))?;
    stage.ok(&["image", "delete", NAME])?;
    Ok(taken)
}

pub(super) fn bare(project: &Project, tar: &Path) -> Result<Duration> {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
    let start = Instant::now();
    check(as_root("sh")?.args(["-c", BY_HAND, "by-hand"]).arg(tar).arg(folder.path()))?;
    let taken = start.elapsed();
    // Owners within are a user namespace's, so that only its root may delete them.
    check(as_root("rm")?.arg("-rf").arg(folder.path().join("root")))?;
    Ok(taken)
}
