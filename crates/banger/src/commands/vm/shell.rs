use std::process::ExitCode;

use banger_client::Client;

use crate::{
    commands::{reference::reference, variables::variable},
    error::CommandError,
    session::{self, GuestCommand},
    ui::Ui,
};

/// Open a login shell in a running VM
#[derive(Debug, clap::Args)]
pub(crate) struct Shell {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// User by name or number [default: root]
    #[arg(short, long)]
    user: Option<String>,
    /// Set an environment variable; without VALUE, copy it from the host
    #[arg(short, long, value_parser = variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
}

impl Shell {
    pub(crate) async fn run(self, _: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new().map_err(CommandError::in_session)?;
        let command = GuestCommand { env: self.env, user: self.user, ..GuestCommand::default() };
        let end = session::run(&client, &self.vm, command).await?;
        Ok(end.status.shell_code().into())
    }
}
