use std::process::ExitCode;

use banger_api::LogSource;
use banger_client::Client;

use crate::{commands::reference, error::CommandError, ui::Ui};

/// Print a VM's console, as far as it is kept (2 MiB)
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    vm: String,
    /// The VMM's own words instead
    #[arg(long)]
    vmm: bool,
}

impl Logs {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let source = if self.vmm { LogSource::Vmm } else { LogSource::Console };
        ui.console(&Client::new()?.logs(&self.vm, source).await?)?;
        Ok(ExitCode::SUCCESS)
    }
}
