//! A connection from ssh, from looking up the VM's name to the end.

use std::{fmt::Display, path::PathBuf};

use banger_api::{ApiError, ErrorKind, RefError, StartVm, SubjectKind, Vm, VmState};
use banger_client::Client;
use banger_ssh_server::{Error, serve};
use rustix::process::setsid;

use super::{
    files::{SUFFIX, SshFiles},
    personal,
    server::Server,
    shared::Shared,
    stdio,
};
use crate::{error::CommandError, file_sync, operation::watch, ui::Ui};

/// A connection to serve.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The VM's name, with or without [`SUFFIX`], or its id.
    pub(crate) host: String,
    /// File to write to when the guest's program has exited.
    pub(crate) exit_file: Option<PathBuf>,
}

impl Proxy {
    /// Finds the VM, starts it if configured, and serves ssh on the standard streams until ssh disconnects. When this
    /// process ends, so does everything that it has open in the guest.
    pub(crate) async fn serve(self, client: Client, ui: &Ui) -> Result<(), CommandError> {
        // Ctrl-C and a closed terminal are for ssh, which may continue in the background with other sessions. setsid
        // fails for a session leader, which does not share ssh's terminal.
        let _ = setsid();
        tokio::select! {
            result = self.serve_vm(client, ui) => result,
            result = stdio::client_disconnected() => Ok(result.map_err(|error| failed(&error))?),
        }
    }

    async fn serve_vm(self, client: Client, ui: &Ui) -> Result<(), CommandError> {
        let key = SshFiles::prepare(client.dirs(), &SshFiles::program()?)?.into_key();
        let name = self.host.strip_suffix(SUFFIX).unwrap_or(&self.host);
        let vm = find(&client, name).await?;
        let vm = ensure_running(&client, vm, ui).await?;
        let shared = Shared::new(client, vm, self.exit_file);
        shared.connect_early();
        let (reader, writer) = stdio::streams().map_err(|error| failed(&error))?;
        match serve(reader, writer, key, |link| Server::new(shared, link)).await {
            // ssh may also disconnect without a message.
            Ok(()) | Err(Error::Disconnected | Error::Io(_)) => Ok(()),
            Err(error) => Err(failed(&error).into()),
        }
    }
}

fn failed(error: &dyn Display) -> ApiError {
    ApiError::new(ErrorKind::Io, format!("cannot serve ssh: {error}"))
}

/// Returns the VM with exactly this name or id. A prefix could match another VM later, unnoticed by ssh.
async fn find(client: &Client, name: &str) -> Result<Vm, ApiError> {
    let mut vms = client.vms().await?.into_iter();
    vms.find(|vm| vm.name.as_str() == name || vm.id.as_str() == name)
        .ok_or_else(|| ApiError::unresolved(SubjectKind::Vm, name, RefError::NotFound))
}

/// Returns `vm` once it runs; starts it if it is stopped and the configuration allows that.
pub(crate) async fn ensure_running(client: &Client, vm: Vm, ui: &Ui) -> Result<Vm, CommandError> {
    match vm.state {
        VmState::Running => return Ok(vm),
        // It only needs to be waited for.
        VmState::Starting => {}
        VmState::Paused => {
            let error = ApiError::new(ErrorKind::NotRunning, format!("VM {} is paused", vm.name));
            return Err(error.hint(format!("resume it with: banger vm resume {}", vm.name)).into());
        }
        _ if crate::config::load()?.autostart() => {}
        state => {
            let why = vm.last_error.as_deref().and_then(|error| error.lines().next());
            let why = why.map(|line| format!(": {line}")).unwrap_or_default();
            let error = ApiError::new(ErrorKind::NotRunning, format!("VM {} is {state}{why}", vm.name));
            let hint = "or set ssh.autostart in the configuration";
            return Err(error.hint(format!("start it with: banger vm start {}; {hint}", vm.name)).into());
        }
    }
    let options = StartVm { personal: personal::collect(&crate::config::load()?, None, client.dirs(), ui)? };
    let mut events = client.start_vm(vm.id.as_str(), &options).await?;
    let (vm, _) = watch::<Vm>(client, &mut events, ui).await?;
    file_sync::after_start(client, ui, &vm).await?;
    Ok(vm)
}
