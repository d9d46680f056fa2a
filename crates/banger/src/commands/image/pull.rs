use std::{fs::File, path::Path, process::ExitCode};

use banger_api::{ApiError, Digest, ErrorKind, Image, ImageName, InvalidDigest, PullImage, Size};
use banger_client::{Client, Events};

use crate::{credentials, error::CommandError, operation::watch, ui::Ui};

/// Suffix of a bundle's name.
const BUNDLE_SUFFIX: &str = ".tar.zst";

/// Pull an image from the catalog, a registry or a bundle
///
/// An existing image is downloaded again only if its tag has moved; VMs keep the image that they were created from.
/// An interrupted download is resumed. Logins are those of `docker login` and `podman login`. Mirrors, plain HTTP and
/// CAs are configured in config.toml, under `[[registry]]`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image pull debian-bookworm
  banger image pull alpine:3.20
  banger image pull ghcr.io/org/thing@sha256:...
  banger image pull ./tools.tar.zst --name tools
  banger image pull https://example.com/tools.tar.zst \\
    --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub(crate) struct Pull {
    /// Bundle's file or URL; else catalog name; else `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, by default from
    /// docker.io
    #[arg(id = "catalog_image", value_name = "NAME|FILE|URL")]
    image: String,
    /// Size of the file system [default: 1.5 times the content, at least 1G; unused space occupies no disk]
    #[arg(long)]
    size: Option<Size>,
    /// Name for a bundle's image [default: the name in the bundle]
    #[arg(long)]
    name: Option<ImageName>,
    /// Expected SHA-256 of the bundle
    #[arg(long, value_parser = sha256)]
    sha256: Option<Digest>,
}

impl Pull {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let bundle = bundle(&self.image)?;
        if self.size.is_some() && !matches!(bundle, Bundle::None) {
            return Err(CommandError::usage("--size does not apply to bundles: their size is fixed"));
        }
        let mut events = match bundle {
            Bundle::File(file) => client.import_bundle(file, self.name.as_ref(), self.sha256).await?,
            Bundle::Url => client.download_bundle(&self.image, self.name.as_ref(), self.sha256).await?,
            Bundle::None => self.pull_by_name(&client, ui).await?,
        };
        let (image, _) = watch::<Image>(&client, &mut events, ui).await?;
        ui.line(&image.name)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn pull_by_name(self, client: &Client, ui: &Ui) -> Result<Events, CommandError> {
        let Self { image, size, name, sha256 } = self;
        if name.is_some() || sha256.is_some() {
            let message = format!("--name and --sha256 are only for bundles, and {image} is not a file");
            return Err(CommandError::usage(message));
        }
        let name: ImageName = image
            .parse()
            .map_err(|error| CommandError::usage(format!("{image:?} is not an image name: {error}")))?;
        let credentials = credentials::for_image(client, &name, ui).await;
        Ok(client.pull_image(&PullImage { name, size, credentials }).await?)
    }
}

/// The bundle that an image argument names, if it names one.
enum Bundle {
    File(File),
    Url,
    None,
}

fn bundle(image: &str) -> Result<Bundle, ApiError> {
    if image.starts_with("https://") || image.starts_with("http://") {
        return Ok(Bundle::Url);
    }
    let has_suffix = image.ends_with(BUNDLE_SUFFIX);
    if has_suffix || (image.contains('/') && Path::new(image).is_file()) {
        let cannot = |error| ApiError::new(ErrorKind::Io, format!("cannot read {image}: {error}"));
        return File::open(image).map(Bundle::File).map_err(cannot);
    }
    Ok(Bundle::None)
}

/// Parses a digest, with or without its `sha256:` prefix: `sha256sum` prints none.
fn sha256(text: &str) -> Result<Digest, InvalidDigest> {
    format!("sha256:{}", text.strip_prefix("sha256:").unwrap_or(text)).parse()
}
