use std::process::ExitCode;

use banger_api::Kernel;
use banger_client::Client;

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// List kernels
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    format: Format,
}

impl List {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let kernels = Client::new()?.kernels().await?;
        ui.list(&self.format, &kernels, |kernel| kernel.id.to_string(), |kernels| table(ui, kernels))?;
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
