use std::process::ExitCode;

use banger_api::{Kernel, Name};
use banger_client::Client;

use crate::{error::CommandError, operation::watch, ui::Ui};

/// Pull a kernel from the catalog
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger kernel pull debian-cloud
  banger kernel list --available     list the available kernels")]
pub(crate) struct Pull {
    /// Name in the catalog
    #[arg(id = "catalog_kernel", value_name = "NAME")]
    name: Name,
}

impl Pull {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events = client.pull_kernel(&self.name).await?;
        let (kernel, _) = watch::<Kernel>(&client, &mut events, ui).await?;
        ui.line(&kernel.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
