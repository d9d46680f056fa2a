use std::process::ExitCode;

use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Stop the daemon and start it again; VMs run on
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// Also when it is busy: what is under way is undone, and sessions break
    #[arg(short, long)]
    force: bool,
}

impl Restart {
    pub(crate) async fn run(self, _: &Ui) -> Result<ExitCode, CommandError> {
        Client::new()?.restart_daemon(self.force).await?;
        Ok(ExitCode::SUCCESS)
    }
}
