use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{ApiError, Bundle as BundleInfo, ErrorKind};
use banger_client::Client;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::reference::reference,
    error::CommandError,
    operation::watch,
    signals,
    ui::{Format, Table, Ui},
};

/// Write an image to one file, for other hosts
///
/// The file is a .tar.zst with the image's file system and metadata. `banger image pull FILE` creates the image from
/// it, on any host. The same image always produces the same bytes.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image bundle tools tools.tar.zst
  banger image pull ./tools.tar.zst --name tools")]
pub(crate) struct Bundle {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    image: String,
    /// File to write
    #[arg(value_hint = clap::ValueHint::FilePath)]
    out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

/// A bundle: its file and digest.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BundleFile")]
pub(crate) struct BundleResult {
    /// The file.
    path: PathBuf,
    #[serde(flatten)]
    bundle: BundleInfo,
}

impl Bundle {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let out = &self.out;
        let cannot = |error: io::Error| {
            ApiError::new(ErrorKind::Io, format!("cannot write {}: {error}", out.display()))
        };
        if !self.force && fs::symlink_metadata(out).is_ok() {
            return Err(already_exists(out).into());
        }
        // Removes the temporary file, whenever a signal comes.
        let phase = signals::cancellable();
        let dir = out.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let mut temporary = tempfile::Builder::new()
            .prefix(".partial-")
            // A bundle is meant to be shared, as far as the user's umask allows.
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(cannot)?;
        let client = Client::new()?;
        let file = temporary.as_file().try_clone().map_err(cannot)?;
        let mut events = phase.run(client.bundle_image(&self.image, file)).await??;
        let (bundle, _) = watch::<BundleInfo>(&client, &mut events, ui).await?;
        temporary.as_file_mut().sync_all().map_err(cannot)?;
        if self.force {
            temporary.persist(out).map_err(|error| cannot(error.error))?;
        } else {
            temporary.persist_noclobber(out).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => already_exists(out),
                _ => cannot(error.error),
            })?;
        }
        banger_durable::sync_dir(dir).map_err(cannot)?;
        let result = BundleResult { path: out.clone(), bundle };
        ui.show(&self.format, &result, |result| result.path.display().to_string(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn already_exists(out: &Path) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("{} already exists", out.display()))
        .hint("replace it with --force, or choose another name")
}

fn table(result: &BundleResult) -> Table {
    Table::from_fields([
        ("path", result.path.display().to_string()),
        ("sha256", result.bundle.sha256.hex()),
        ("size", result.bundle.size.to_string()),
    ])
}
