use std::{path::PathBuf, process::ExitCode};

use banger_client::Client;

use crate::{
    commands::{
        reference::reference,
        variables::{variable, variables},
    },
    error::CommandError,
    session::{self, GuestCommand},
    ui::Ui,
};

/// Run a command in a running VM
///
/// The exit status is the command's own, 128+n if signal n ended it, or 125 if banger itself failed. The command gets
/// a terminal if banger has one.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm exec box -- nproc
  tar c . | banger vm exec box -w /tmp -- tar x")]
pub(crate) struct ExecArgs {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// User by name or number [default: root]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory [default: the user's home directory]
    #[arg(short = 'w', long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Set an environment variable; without VALUE, copy it from the host
    #[arg(short, long, value_parser = variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
    /// Set environment variables from a file, one NAME=VALUE per line; --env overrides them
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl ExecArgs {
    pub(crate) async fn run(self, _: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new().map_err(CommandError::in_session)?;
        let env = variables(&self.env_file, self.env).map_err(CommandError::in_session)?;
        let command = GuestCommand { argv: self.command, env, cwd: self.workdir, user: self.user };
        let end = session::run(&client, &self.vm, command).await?;
        Ok(end.status.shell_code().into())
    }
}
