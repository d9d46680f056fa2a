use std::process::ExitCode;

use banger_api::Image;
use banger_client::Client;

use super::list::on_disk;
use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show an image's details
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    image: String,
    #[command(flatten)]
    format: Format,
}

impl Show {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let image = Client::new()?.image(&self.image).await?;
        ui.show(&self.format, &image, |image| image.id.to_string(), |image| table(ui, image))?;
        if let Some(problem) = image.problem.as_ref().filter(|_| self.format.is_table()) {
            ui.warning(problem);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, image: &Image) -> Table {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let config = &image.config;
    let mut table = Table::from_fields([
        ("name", image.name.to_string()),
        ("id", image.id.to_string()),
        ("OS", or_none(&image.os)),
        ("init", or_none(&image.init)),
        ("kernel", or_none(&image.kernel)),
        ("size", image.size.to_string()),
        ("on disk", on_disk(image)),
        ("entries", image.entries.to_string()),
        ("source", image.source.as_str().to_owned()),
        (
            "file",
            image
                .outside
                .as_ref()
                .map_or_else(|| "managed by banger".to_owned(), |path| path.display().to_string()),
        ),
        ("created", ui.ago(image.created_at)),
        ("used by", image.used_by.join(", ")),
    ]);
    let optional = |text: &Option<String>| text.iter().cloned().collect();
    let rows: [(&str, Vec<String>); 5] = [
        ("entrypoint", config.entrypoint.clone()),
        ("cmd", config.cmd.clone()),
        ("workdir", optional(&config.working_dir)),
        ("user", optional(&config.user)),
        ("env", config.env.clone()),
    ];
    for (name, words) in rows.into_iter().filter(|(_, words)| !words.is_empty()) {
        table.row([format!("{name}:"), words.join(" ")]);
    }
    table
}
