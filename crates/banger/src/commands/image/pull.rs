use std::process::ExitCode;

use banger_api::{Image, ImageName, PullImage, Size};
use banger_client::Client;

use crate::{commands::watch::watch, credentials, error::CommandError, ui::Ui};

/// Get an image from the catalog or a registry
///
/// What is there already is fetched again only if its tag has moved; VMs keep the image that they were made of. A download
/// that was cut short goes on where it was. Logins are those of `docker login` and `podman login`; mirrors, plain http and
/// CAs are configured in config.toml, under `[[registry]]`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image pull debian-bookworm
  banger image pull alpine:3.20
  banger image pull ghcr.io/org/thing@sha256:...")]
pub(crate) struct Pull {
    /// Its name in the catalog, else `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`; without a registry, of docker.io
    name: ImageName,
    /// Size of its file system [default: 1.5 times its content, at least 1G; unused space takes none]
    #[arg(long)]
    size: Option<Size>,
}

impl Pull {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let credentials = credentials::of_user(&self.name, ui).await;
        let pull = PullImage { name: self.name, size: self.size, credentials };
        let mut events = client.pull_image(&pull).await?;
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
