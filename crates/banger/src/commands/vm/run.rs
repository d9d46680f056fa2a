use std::process::ExitCode;

use banger_api::{CreateVm, ErrorKind, Vm};
use banger_client::{Client, Events};

use super::hardware::Hardware;
use crate::{
    commands::watch::watch,
    error::CommandError,
    session::{self, Wanted},
    ui::{Timing, Ui, now_ns},
};

/// Make a VM and run a command or a shell in it
///
/// Without a command it is a login shell. The exit status is the command's own, 128+n when signal n ended it, or 125 when
/// banger itself failed. The VM stays afterwards, unless --rm.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm run --rm -- uname -a
  banger vm run --rm --vcpu 4 --memory 4G -- sh -c 'nproc; free -m'
  echo hello | banger vm run --rm -- cat
  banger vm run -d --name box")]
pub(crate) struct Run {
    #[command(flatten)]
    hardware: Hardware,
    /// Set a variable for the command; without a value, to the one it has here
    #[arg(short, long, value_parser = super::variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
    /// Delete the VM however the session ends
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Leave the VM running in the background and print its name
    #[arg(short, long, conflicts_with = "command")]
    detach: bool,
    /// Print where the time went
    #[arg(long)]
    timing: bool,
    /// Command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Run {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let in_session = |failure: CommandError| match failure.error {
            Some(error) => CommandError::in_session(error),
            None => failure,
        };
        self.make_and_enter(ui).await.map_err(in_session)
    }

    async fn make_and_enter(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut timing = Timing::new(ui);
        let asked = now_ns();
        timing.end("banger starts", ui.began_ns);
        let mut events =
            client.run_vm(&CreateVm { rm: self.rm, detach: self.detach, ..self.hardware.request()? }).await?;
        timing.end("reach bangerd", asked);
        let (vm, spans) = watch::<Vm>(&client, &mut events, ui).await?;
        timing.add(spans);
        if self.detach {
            ui.line(&vm.name)?;
            if self.timing {
                timing.print(ui, now_ns());
            }
            return Ok(ExitCode::SUCCESS);
        }
        let wanted = Wanted { argv: self.command, env: self.env, ..Wanted::default() };
        let began = now_ns();
        let session = session::run(&client, vm.id.as_str(), wanted).await;
        if let Ok(ended) = &session {
            timing.end("session", began);
            let first_byte = ended.first_byte_ns;
            if self.rm {
                let began = now_ns();
                delete(&client, &vm, events, ui).await;
                timing.end("delete", began);
            }
            if self.timing {
                timing.print(ui, first_byte);
            }
        } else if self.rm {
            delete(&client, &vm, events, ui).await;
        }
        if !self.rm && session.is_ok() {
            ui.note(format_args!("VM {0} stays; `banger vm delete {0}` ends it", vm.name));
        }
        Ok(session?.status.shell_code().into())
    }
}

/// Deletes a VM whose session is over. If this is cut short too, the daemon does it when `session` is hung up.
async fn delete(client: &Client, vm: &Vm, session: Events, ui: &Ui) {
    let deleted = async { client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await };
    match deleted.await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => ui.warning(format_args!("VM {} could not be deleted: {error}", vm.name)),
    }
    drop(session);
}
