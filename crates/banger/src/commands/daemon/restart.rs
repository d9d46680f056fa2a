use std::process::ExitCode;

use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Restart the daemon; VMs keep running
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// Restart even if it is busy: running operations are undone and sessions end
    #[arg(short, long)]
    force: bool,
}

impl Restart {
    pub(crate) async fn run(self, _: &Ui) -> Result<ExitCode, CommandError> {
        Client::new()?.restart_daemon(self.force).await?;
        Ok(ExitCode::SUCCESS)
    }
}
