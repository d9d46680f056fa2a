//! Directories for a separate bangerd, with the template's image and kernel in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::namespaces::inside;
use crate::{
    command::{check, output},
    project::Project,
    template,
};

/// An isolated banger for benchmarks. Dropping it deletes its VMs and stops its daemon.
#[derive(Debug)]
pub(super) struct Stage {
    programs: PathBuf,
    dir: TempDir,
    /// A process in whose network and mounts everything runs.
    inside: Option<u32>,
}

impl Stage {
    pub(super) fn new(project: &Project) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(project.target())?;
        let template = template::dir(project);
        for part in ["state", "cache", "config"] {
            check(
                Command::new("cp").args(["-a", "--sparse=always"]).arg(template.join(part)).arg(dir.path()),
            )?;
        }
        Ok(Self { programs: project.programs(), dir, inside: None })
    }

    /// Returns a stage whose programs run in the network and the mounts of process `pid`.
    pub(super) fn inside(project: &Project, pid: u32) -> Result<Self> {
        let mut stage = Self::new(project)?;
        stage.inside = Some(pid);
        Ok(stage)
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state/banger")
    }

    /// Returns the path of the daemon's socket. Starts the daemon if none runs.
    pub(super) fn socket(&self) -> Result<PathBuf> {
        self.ok(&["ps"])?;
        let status = self.json(&["daemon", "status"])?;
        Ok(status["socket"].as_str().with_context(|| format!("no socket in {status}"))?.into())
    }

    pub(super) fn banger(&self, arguments: &[&str]) -> Command {
        let program = self.programs.join("banger");
        let mut banger = match self.inside {
            Some(pid) => inside(pid, &program),
            None => Command::new(program),
        };
        banger.args(arguments).envs(self.environment());
        banger
    }

    /// Returns the environment variables that make banger use these directories.
    pub(super) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        let part = |name: &str| self.dir.path().join(name);
        [
            ("XDG_STATE_HOME", part("state")),
            ("XDG_CACHE_HOME", part("cache")),
            ("XDG_CONFIG_HOME", part("config")),
        ]
    }

    pub(super) fn ok(&self, arguments: &[&str]) -> Result<()> {
        check(self.banger(arguments).stdin(Stdio::null()).stdout(Stdio::null()))
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = output(self.banger(arguments).args(["-o", "json"]).stdin(Stdio::null()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("banger {} printed no JSON", arguments.join(" ")))
    }

    /// Returns a VM's id.
    pub(super) fn vm_id(&self, vm: &str) -> Result<String> {
        let shown = self.json(&["vm", "show", vm])?;
        Ok(shown["id"].as_str().with_context(|| format!("no id in {shown}"))?.to_owned())
    }

    pub(super) fn vm_runtime(&self, vm: &str) -> Result<PathBuf> {
        Ok(self.socket()?.with_file_name("vms").join(self.vm_id(vm)?))
    }

    /// Returns the daemon's resident memory in MiB.
    pub(super) fn daemon_memory(&self) -> Result<f64> {
        self.daemon_status("VmRSS:")
    }

    /// Returns the daemon's peak resident memory in MiB.
    pub(super) fn daemon_peak(&self) -> Result<f64> {
        self.daemon_status("VmHWM:")
    }

    fn daemon_status(&self, field: &str) -> Result<f64> {
        let status = self.json(&["daemon", "status"])?;
        let pid = status["pid"].as_u64().with_context(|| format!("no pid in {status}"))?;
        memory_of(u32::try_from(pid)?, field)
    }
}

/// Returns a field of a process's `/proc/PID/status` in MiB (proc_pid_status(5)).
pub(super) fn memory_of(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
    Ok(kibibytes.with_context(|| format!("no {field}"))?.parse::<f64>()? / 1024.0)
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(ids) = output(self.banger(&["ps", "-a", "-q"]).stdin(Stdio::null())) {
            let ids = String::from_utf8_lossy(&ids);
            let ids: Vec<_> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = self.ok(&[&["vm", "delete", "--force"], ids.as_slice()].concat());
            }
        }
        let _ = self.ok(&["daemon", "stop", "--force"]);
    }
}
