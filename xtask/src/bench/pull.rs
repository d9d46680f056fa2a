//! Measures the pull of an image of about 1 GB from a local registry against standard tools.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    import,
    measure::{compare, print_measurement, timed},
    stage::Stage,
};
use crate::{
    command::{as_root, check, say},
    project::Project,
};

/// Goals: maximum ratios to the tool's time, and MiB.
const CACHED_GOAL: f64 = 0.2;
const LOOPBACK_GOAL: f64 = 1.3;
const MEMORY_GOAL: f64 = 256.0;

/// Builds the same file system from an OCI layout with standard tools.
const BY_HAND: &str = "set -eu
    umoci unpack --image \"$1:x\" \"$2/bundle\"
    mke2fs -q -F -t ext4 -d \"$2/bundle/rootfs\" \"$2/root.ext4\" 2G
    sync \"$2/root.ext4\"";

pub(super) fn pull(project: &Project, stage: &Stage, runs: usize) -> Result<()> {
    let layout = layout(project)?;
    let registry = Registry::start(project)?;
    let name = format!("{}/bench:1", registry.address);
    let skopeo =
        ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let (local, remote) = (format!("oci:{}:x", layout.display()), format!("docker://{name}"));
    check(Command::new("skopeo").args(skopeo).args([&local, &remote]))?;
    let cached = || {
        let elapsed = timed(&mut stage.banger(&["image", "pull", &name]))?;
        stage.ok(&["image", "delete", &name])?;
        Ok(elapsed)
    };
    compare("pull, cached / umoci + mke2fs -d", CACHED_GOAL, runs, cached, || by_hand(project, &layout))?;
    let pulled = || {
        fs::remove_dir_all(stage.dir().join("cache/banger/blobs"))?;
        cached()
    };
    let copied = || {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
        let to = format!("oci:{}:x", dir.path().join("layout").display());
        timed(Command::new("skopeo").args(skopeo).args([&remote, &to]))
    };
    compare("pull / skopeo copy", LOOPBACK_GOAL, runs, pulled, copied)?;
    print_measurement("pull, the daemon's peak, MiB", stage.daemon_peak()?, MEMORY_GOAL);
    Ok(())
}

/// Returns an OCI layout whose only layer is a Debian of about 1 GB. It is created once.
fn layout(project: &Project) -> Result<PathBuf> {
    let layout = project.target().join("bench/layout");
    if layout.exists() {
        return Ok(layout);
    }
    let tar = import::tar(project)?;
    say("creating an image from it");
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(project.target().join("bench"))?;
    let partial_layout = partial.path().join("layout");
    let umoci = |arguments: &[&str]| check(Command::new("umoci").args(arguments));
    let image = format!("{}:x", partial_layout.display());
    umoci(&["init", "--layout", &partial_layout.display().to_string()])?;
    umoci(&["new", "--image", &image])?;
    umoci(&["raw", "add-layer", "--image", &image, &tar.display().to_string()])?;
    fs::rename(&partial_layout, &layout).with_context(|| layout.display().to_string())?;
    Ok(layout)
}

fn by_hand(project: &Project, layout: &Path) -> Result<Duration> {
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
    let start = Instant::now();
    check(as_root("sh")?.args(["-c", BY_HAND, "by-hand"]).arg(layout).arg(dir.path()).stdout(Stdio::null()))?;
    let elapsed = start.elapsed();
    // The files belong to a user namespace's users, so only its root can delete them.
    check(as_root("rm")?.arg("-rf").arg(dir.path().join("bundle")))?;
    Ok(elapsed)
}

/// Debian's `docker-registry`. Dropping it kills the process.
struct Registry {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start(project: &Project) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            dir.path().display()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config)?;
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = registry.spawn().context("docker-registry")?;
        let stderr = process.stderr.take().context("stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let printed = lines.find_map(|line| {
            let address = line.split("listening on ").nth(1)?;
            Some(address.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect())
        });
        // The registry would block when the pipe is full.
        thread::spawn(move || lines.for_each(drop));
        let address = printed.context("docker-registry printed no address")?;
        Ok(Self { process, address, _dir: dir })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
