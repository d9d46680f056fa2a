use std::{path::PathBuf, process::ExitCode};

use banger_client::Client;

use super::selection::Selection;
use crate::{
    commands::reference::reference,
    config,
    error::CommandError,
    ui::{Output, Ui},
    workspace::{Put, Workspaces},
};

/// Send a git repository into a running VM
///
/// banger sends the repository's current state on disk: tracked files with local edits, deletions and staged changes,
/// and recent history. Ignored files are sent only with `--mode full-copy`. If the repository was sent before, only
/// changes are sent, and changes in the VM are never overwritten. The VM needs no git. To install the tools that the
/// repository requires and run its setup commands, use `banger vm run PATH`.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm workspace prepare box
  banger vm workspace prepare box ~/src/thing --guest-path /root/thing
  banger vm workspace prepare box --branch try --from origin/main
  banger vm workspace prepare box --dry-run")]
pub(crate) struct Prepare {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Path in the repository
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    selection: Selection,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the dry run as a table or JSON
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT", requires = "dry_run")]
    output: Output,
}

impl Prepare {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui);
        if self.dry_run {
            let config = config::load_for(Some(&self.path))?;
            let taken = self.selection.take(&workspaces, &self.path, config.project()).await?;
            let plan = self.selection.plan(&taken, &config);
            match self.output {
                Output::Json => ui.json(&plan)?,
                Output::Table => plan.print(ui)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let vm = client.vm(&self.vm).await?;
        let place = &self.selection.guest_path;
        match self.selection.take_and_put(&workspaces, ui, &vm, &self.path).await? {
            Some(put) if put.files == 0 && put.removed == 0 => {
                ui.note(format_args!("{place} in VM {} is up to date", vm.name));
            }
            Some(put) => {
                let files =
                    if put.files == 1 { "one file".to_owned() } else { format!("{} files", put.files) };
                let Put { removed, .. } = put;
                ui.note(format_args!(
                    "sent to {place} in VM {}: {files} written, {removed} removed",
                    vm.name
                ));
            }
            None => ui.note(format_args!("copied to {place} in VM {}", vm.name)),
        }
        Ok(ExitCode::SUCCESS)
    }
}
