//! A VM that a command creates for its own time and then deletes.

use banger_api::{ErrorKind, Vm};
use banger_client::{Client, Events};

use crate::{error::CommandError, signals, steps::Step, ui::Ui};

/// Deletes `vm`. A signal leaves that to the daemon, which also deletes a VM created with `rm` once `session` is
/// closed. A failure is only a warning.
pub(super) async fn delete(client: &Client, vm: &Vm, session: Events, ui: &Ui) -> Result<(), CommandError> {
    let mut phase = signals::cleanup();
    let continues = format!(
        "bangerd continues to delete VM {0}; if `banger ps -a` still shows it: banger vm delete {0}",
        vm.name
    );
    phase.set_last_words(&continues);
    let deleted = Step::DeleteVm
        .around_async(async { client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await });
    let deleted = phase.run(deleted).await.inspect_err(|_| ui.note(&continues))?;
    match deleted {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => ui.warning(format_args!("VM {} could not be deleted: {error}", vm.name)),
    }
    drop(session);
    Ok(())
}
