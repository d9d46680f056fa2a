use std::process::ExitCode;

use banger_api::{CatalogEntry, Image};
use banger_client::Client;

use crate::{
    error::CommandError,
    operation::watch,
    ui::{Format, Table, Ui},
};

/// List local images, or those of the catalog
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// List the catalog's images, which `image pull` and the first use in a VM download
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
            let entries = client.catalog_images().await?;
            ui.list(&self.format, &entries, |entry| entry.name.to_string(), catalog_table)?;
            return Ok(ExitCode::SUCCESS);
        }
        let images = client.images().await?;
        ui.list(&self.format, &images, |image| image.id.to_string(), |images| table(ui, images))?;
        if self.format.is_table() {
            images.iter().filter_map(|image| image.problem.as_ref()).for_each(|problem| ui.warning(problem));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, images: &[Image]) -> Table {
    let mut table = Table::new(["NAME", "OS", "SIZE", "ON DISK", "KERNEL", "USED BY", "CREATED", "ID"]);
    for image in images {
        table.row([
            image.name.to_string(),
            image.os.clone().unwrap_or_default(),
            image.size.to_string(),
            on_disk(image),
            image.kernel.clone().unwrap_or_default(),
            abbreviate(&image.used_by),
            ui.ago(image.created_at),
            image.id.to_string(),
        ]);
    }
    table
}

/// Returns the image's disk usage, and whether its file is the user's or shared.
pub(super) fn on_disk(image: &Image) -> String {
    match (&image.outside, image.shared) {
        (Some(_), _) => format!("{}, registered", image.disk_usage),
        (None, true) => format!("{}, shared", image.disk_usage),
        (None, false) => image.disk_usage.to_string(),
    }
}

/// Returns the first names and the number of the others.
fn abbreviate(names: &[String]) -> String {
    match names {
        [first, second, _, rest @ ..] => format!("{first}, {second} and {} more", rest.len() + 1),
        names => names.join(", "),
    }
}

fn catalog_table(entries: &[CatalogEntry]) -> Table {
    let mut table = Table::new(["NAME", "DISTRO", "SIZE", "SOURCES", "LOCAL", "DESCRIPTION"]);
    for entry in entries {
        table.row([
            entry.name.to_string(),
            entry.distro.clone(),
            entry.size.to_string(),
            entry.sources.join(", "),
            if entry.local { "yes" } else { "no" }.to_owned(),
            entry.description.clone(),
        ]);
    }
    table
}
