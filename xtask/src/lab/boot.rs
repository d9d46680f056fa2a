//! Prepares the disks and programs of a lab, once for all labs of a run, and boots labs.

use std::{ffi::OsString, fs::File, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use super::{
    firecracker, input,
    machine::{self, CommandStdio, ExitReason},
    system,
};
use crate::{command::say, project::Project, template};

/// Default memory of a lab, in MiB.
pub(super) const DEFAULT_MEMORY: u32 = 6144;

pub(super) const FROZEN: &str = "the lab froze: QEMU stopped emulating it";

/// Everything that a lab is booted from.
pub(super) struct Lab<'a> {
    project: &'a Project,
    system: system::System,
    tools: PathBuf,
    /// The test program with the scenarios.
    smoke: Option<PathBuf>,
    /// Work disk with the template in it; each lab gets a copy.
    work_disk: File,
}

impl<'a> Lab<'a> {
    pub(super) fn prepare(project: &'a Project, smoke: Option<PathBuf>) -> Result<Self> {
        let (system, tools) = prepare_parts(project)?;
        let work_disk = input::create_work_disk(&template::dir(project), &cache(project))?;
        Ok(Self { project, system, tools, smoke, work_disk })
    }

    pub(super) fn boot(
        &self,
        command: &[OsString],
        memory: u32,
        limit: Option<Duration>,
        stdio: CommandStdio,
    ) -> Result<ExitReason> {
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(cache(self.project))?;
        let input = input::Input {
            programs: &self.project.programs(),
            programs_with_fail_points: &self.project.programs_with_fail_points(),
            tools: &self.tools,
            smoke: self.smoke.as_deref(),
            command,
            terminal: stdio.interactive,
        };
        input.create_disk(dir.path())?;
        input::copy_work_disk(&self.work_disk, dir.path())?;
        say("booting the lab");
        machine::Machine { system: &self.system, dir, memory, limit, stdio }.run()
    }
}

/// Downloads missing parts: the lab's system and Firecracker.
pub(crate) fn fetch(project: &Project) -> Result<()> {
    prepare_parts(project).map(drop)
}

fn prepare_parts(project: &Project) -> Result<(system::System, PathBuf)> {
    let cache = cache(project);
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok((system::prepare(&cache)?, firecracker::prepare(&cache)?))
}

fn cache(project: &Project) -> PathBuf {
    project.target().join("lab")
}
