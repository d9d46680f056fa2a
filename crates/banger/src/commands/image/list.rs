use std::process::ExitCode;

use banger_api::Image;
use banger_client::Client;

use crate::{
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    format: Format,
}

impl List {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let images = Client::new()?.images().await?;
        ui.list(&self.format, &images, |image| image.id.to_string(), |images| table(ui, images))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, images: &[Image]) -> Table {
    let mut table = Table::new(["NAME", "OS", "ON DISK", "KERNEL", "CREATED", "ID"]);
    for image in images {
        table.row([
            image.name.to_string(),
            image.os.clone().unwrap_or_default(),
            image.disk_usage.to_string(),
            image.kernel.clone().unwrap_or_default(),
            ui.ago(image.created_at),
            image.id.to_string(),
        ]);
    }
    table
}
