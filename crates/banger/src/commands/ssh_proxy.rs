use std::{path::PathBuf, process::ExitCode};

use banger_client::Client;

use crate::{error::CommandError, ssh::Proxy, ui::Ui};

/// Serve SSH on the standard streams, as ssh's ProxyCommand
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct SshProxy {
    /// The VM's name, with or without .vm
    host: String,
    /// File to write to when the program in the VM has exited by itself
    #[arg(long, hide = true)]
    ended: Option<PathBuf>,
}

impl SshProxy {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        Proxy { host: self.host, exit_file: self.ended }.serve(Client::new()?, ui).await?;
        Ok(ExitCode::SUCCESS)
    }
}
