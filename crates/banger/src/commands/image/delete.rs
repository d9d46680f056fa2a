use std::{collections::HashSet, process::ExitCode};

use banger_api::{ApiError, Image, SubjectKind, resolve_image};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, ui::Ui};

/// Delete images that no VM uses
///
/// Deleting a registered image removes only its registration: the file stays.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image delete golden-old
  banger image delete team/base:1 team/base:2")]
pub(crate) struct Delete {
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "IMAGE", value_parser = reference())]
    images: Vec<String>,
}

impl Delete {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let images = client.images().await?;
        let mut seen = HashSet::new();
        let mut failed = false;
        for reference in &self.images {
            match delete(&client, &images, reference, &mut seen).await {
                Ok(Some(image)) => ui.line(&image.name)?,
                Ok(None) => {}
                Err(error) => {
                    failed = true;
                    ui.error(&error);
                }
            }
        }
        if failed { Err(CommandError::already_reported(1)) } else { Ok(ExitCode::SUCCESS) }
    }
}

/// Deletes the image that `reference` names, unless it is in `seen`.
async fn delete<'a>(
    client: &Client,
    images: &'a [Image],
    reference: &str,
    seen: &mut HashSet<String>,
) -> Result<Option<&'a Image>, ApiError> {
    let image = resolve_image(images, reference)
        .map_err(|error| ApiError::unresolved(SubjectKind::Image, reference, error))?;
    if !seen.insert(image.id.to_string()) {
        return Ok(None);
    }
    client.delete_image(image.id.as_str()).await?;
    Ok(Some(image))
}
