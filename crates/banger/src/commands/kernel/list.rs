use std::process::ExitCode;

use banger_api::{AvailableKernel, Kernel};
use banger_client::Client;

use crate::{
    error::CommandError,
    operation::watch,
    ui::{Format, Table, Ui},
};

/// List kernels
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger kernel list
  banger kernel list --available     list kernels that `banger kernel pull` downloads")]
pub(crate) struct List {
    /// List the catalog's kernels instead; -q prints their names
    #[arg(long)]
    available: bool,
    #[command(flatten)]
    format: Format,
}

impl List {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        if self.available {
            watch::<()>(&client, &mut client.refresh_catalogs().await?, ui).await?;
            let kernels = client.available_kernels().await?;
            ui.list(&self.format, &kernels, |kernel| kernel.name.clone(), catalog_table)?;
        } else {
            let kernels = client.kernels().await?;
            ui.list(&self.format, &kernels, |kernel| kernel.id.to_string(), |kernels| table(ui, kernels))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, kernels: &[Kernel]) -> Table {
    let mut table = Table::new(["NAME", "RELEASE", "ON DISK", "CREATED", "ID"]);
    for kernel in kernels {
        table.row([
            kernel.name.to_string(),
            kernel.release.clone(),
            kernel.disk_usage.to_string(),
            ui.ago(kernel.created_at),
            kernel.id.to_string(),
        ]);
    }
    table
}

fn catalog_table(kernels: &[AvailableKernel]) -> Table {
    let mut table = Table::new(["NAME", "SIZE", "LOCAL", "DESCRIPTION"]);
    for kernel in kernels {
        table.row([
            kernel.name.clone(),
            kernel.size.to_string(),
            if kernel.local { "yes" } else { "no" }.to_owned(),
            kernel.description.clone(),
        ]);
    }
    table
}
