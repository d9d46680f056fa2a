//! The tools that a repository asks for, made ready in its VM.

use banger_api::{ApiError, Vm};
use banger_client::{Client, Output};
use banger_proto::{Exec, ExitStatus};
use banger_workspace::tools::{Plan, SCRIPT, arguments};

use crate::{
    session::{self, Wanted},
    ui::Ui,
};

/// Where the guest says how it goes.
const LOG: &str = "/var/log/banger-tools.log";

/// Runs the script that it is given with what else it is given, and leaves it to itself.
const IN_BACKGROUND: &str = "sh -c \"$0\" tools \"$@\" </dev/null >/var/log/banger-tools.log 2>&1 &";

/// Runs it, and says how it goes.
const WAITED_FOR: &str = "exec sh -c \"$0\" tools \"$@\" </dev/null >&2";

/// Makes the tools of `plan` ready in `vm`: in the background, or before anything else when they are `waited` for. What
/// cannot be had is told, and is no failure.
pub(crate) async fn make_ready(client: &Client, ui: &Ui, vm: &Vm, plan: &Plan, waited: bool) {
    if plan.tools.is_empty() {
        return;
    }
    let names: Vec<_> = plan.tools.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
    let names = names.join(", ");
    let script = if waited { WAITED_FOR } else { IN_BACKGROUND };
    let mut argv = ["sh", "-c", script, SCRIPT].map(str::to_owned).to_vec();
    argv.extend(arguments(plan));
    let ready = if waited {
        ui.note(format_args!("making ready in VM {}: {names}", vm.name));
        let wanted = Wanted { argv, cwd: Some("/".to_owned()), no_stdin: true, ..Wanted::default() };
        session::run(client, vm.id.as_str(), wanted).await.map(|ended| ended.status)
    } else {
        ui.note(format_args!("being made ready in VM {}: {names}; {LOG} there tells how it goes", vm.name));
        begun(client, vm, argv).await
    };
    match ready {
        Ok(ExitStatus::Code(0)) => {}
        Ok(_) => ui.warning("not all tools that the repository asks for could be made ready"),
        Err(error) => ui.warning(format_args!("the repository's tools are not made ready: {error}")),
    }
}

async fn begun(client: &Client, vm: &Vm, argv: Vec<String>) -> Result<ExitStatus, ApiError> {
    let exec = Exec { argv, cwd: Some("/".to_owned()), ..Exec::default() };
    let (_input, mut output) = banger_client::exec(client, vm.id.as_str(), exec).await?;
    loop {
        if let Output::Exited(status) = output.next().await? {
            return Ok(status);
        }
    }
}
