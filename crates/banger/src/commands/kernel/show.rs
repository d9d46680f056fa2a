use std::process::ExitCode;

use banger_api::Kernel;
use banger_client::Client;

use crate::{
    commands::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show a kernel in full
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    kernel: String,
    #[command(flatten)]
    format: Format,
}

impl Show {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let kernel = Client::new()?.kernel(&self.kernel).await?;
        ui.show(&self.format, &kernel, |kernel| kernel.id.to_string(), |kernel| table(ui, kernel))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, kernel: &Kernel) -> Table {
    let yes_or_no = |answer: bool| if answer { "yes" } else { "no" }.to_owned();
    Table::of_fields([
        ("name", kernel.name.to_string()),
        ("id", kernel.id.to_string()),
        ("release", kernel.release.clone()),
        ("modules", yes_or_no(kernel.modules)),
        ("PVH entry", yes_or_no(kernel.pvh)),
        ("on disk", kernel.disk_usage.to_string()),
        ("source", kernel.source.clone()),
        ("created", ui.ago(kernel.created_at)),
        ("used by", kernel.used_by.join(", ")),
    ])
}
