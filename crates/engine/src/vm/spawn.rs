//! Starts a VM's processes: each is in the journal before it runs, and confined.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use banger_sys::confine::{Confinement, Namespaces, confine_in};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    marker::{self, new_marker},
    process::{self, LiveProcess},
    services::Services,
};
use crate::{
    error::EngineError,
    logs::console_logger_confinement,
    resource::{ProcessId, ProcessRole, Resource},
    store::{Scope, VmRecord},
};

/// Starts the processes of one VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spawner<'a> {
    pub(super) services: &'a Services,
    pub(super) record: &'a VmRecord,
}

/// Write ends of the pipes that the console logger reads.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) console: OwnedFd,
    pub(super) vmm_output: OwnedFd,
}

impl Pipes {
    /// Returns a copy of a write end, for a process.
    pub(super) fn duplicate(pipe: &OwnedFd) -> Result<Stdio, EngineError> {
        Ok(pipe.try_clone().map_err(EngineError::file("duplicate", "a pipe"))?.into())
    }
}

impl Spawner<'_> {
    /// Starts the console logger. Returns it, and the write ends of its pipes.
    pub(super) fn start_console_logger(&self) -> Result<(LiveProcess, Pipes), EngineError> {
        let program = &self.services.programs.bangerd;
        let failed = |error: rustix::io::Errno| EngineError::Program {
            program: program.clone(),
            source: error.into(),
        };
        let (console, console_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (vmm_output, vmm_output_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let dir = self.services.vm_dir(self.record);
        let mut command = Command::new(program);
        command.arg("console").args([dir.console_log(), dir.vmm_log()]);
        // The logger reads from both, stdout included: a child gets descriptors only as stdin, stdout and stderr.
        command.stdin(console).stdout(vmm_output).stderr(Stdio::null());
        confine(&mut command, &console_logger_confinement(dir.path()), Vec::new(), None)?;
        let logger = self.spawn(ProcessRole::Console, command)?;
        Ok((logger, Pipes { console: console_writer, vmm_output: vmm_output_writer }))
    }

    /// Starts a program that is confined already, in the VM's runtime directory. Its environment has only the VM's
    /// marker.
    pub(super) fn spawn(&self, role: ProcessRole, mut command: Command) -> Result<LiveProcess, EngineError> {
        let Self { services, record } = self;
        let program = &PathBuf::from(command.get_program());
        let marker = new_marker(&services.vm_dir(record));
        let resource =
            |id| Resource::Process { role, program: program.to_owned(), marker: marker.clone(), id };
        let row = services.store.journal(&record.id, Scope::Run, &resource(None))?;
        // A VMM opens its disks and sockets by names in this directory.
        let dir = services.dirs.vm_runtime(record.id.as_str());
        command.env_clear().env(marker::VARIABLE, &marker).current_dir(dir);
        let failed = |source| EngineError::Program { program: program.to_owned(), source };
        let child = command.spawn().map_err(failed)?;
        let mut id = process::identify(child.id())?;
        if role == ProcessRole::Pasta {
            // It replaces itself by its build for this processor.
            id = id.map(|id| ProcessId { executable: None, ..id });
        }
        services.store.update_journal_row(row, &resource(id))?;
        tracing::info!(vm = %record.id, %role, pid = child.id(), program = %program.display(), "started");
        // An unreaped child stays a zombie, so its pid cannot have been reused.
        process::open(child.id())?.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
    }
}

/// Confines the program of `command`, except the fake VMMs of a test, in the VM's namespaces if they are given.
pub(super) fn confine(
    command: &mut Command,
    confinement: &Confinement,
    descriptors: Vec<OwnedFd>,
    namespaces: Option<Namespaces>,
) -> Result<(), EngineError> {
    let program = PathBuf::from(command.get_program());
    #[cfg(feature = "fail-points")]
    if crate::fail::is_fake(&program) {
        banger_sys::confine::detach(command, descriptors);
        return Ok(());
    }
    let confined = confine_in(namespaces, command, confinement, descriptors);
    confined.map_err(EngineError::file("confine", program))
}
