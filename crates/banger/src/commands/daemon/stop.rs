use std::process::ExitCode;

use banger_client::Client;

use crate::{error::CommandError, ui::Ui};

/// Stop the daemon; VMs keep running
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// Stop even if it is busy: running operations are undone and sessions end
    #[arg(short, long)]
    force: bool,
}

impl Stop {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        if !Client::new()?.stop_daemon(self.force).await? {
            ui.note("bangerd is not running");
        }
        Ok(ExitCode::SUCCESS)
    }
}
