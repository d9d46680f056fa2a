use std::{path::PathBuf, process::ExitCode};

use banger_client::Client;

use super::selection::Selection;
use crate::{
    commands::reference::reference,
    config,
    error::CommandError,
    ui::{Output, Ui},
    workspace::{SendSummary, Workspaces},
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
        let workspaces = Workspaces::new(&client, ui)?;
        if self.dry_run {
            let config = config::load_for(Some(&self.path))?;
            let prepared = self.selection.prepare(&workspaces, &self.path, config.project()).await?;
            let plan = self.selection.plan(&prepared, &config);
            match self.output {
                Output::Json => ui.json(&plan)?,
                Output::Table => plan.print(ui)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let vm = client.vm(&self.vm).await?;
        let guest_path = &self.selection.guest_path;
        match self.selection.prepare_and_send(&workspaces, ui, &vm, &self.path).await? {
            Some(summary) if summary.files == 0 && summary.removed == 0 => {
                ui.note(format_args!("{guest_path} in VM {} is up to date", vm.name));
            }
            Some(summary) => {
                let files = if summary.files == 1 {
                    "one file".to_owned()
                } else {
                    format!("{} files", summary.files)
                };
                let SendSummary { removed, .. } = summary;
                ui.note(format_args!(
                    "sent to {guest_path} in VM {}: {files} written, {removed} removed",
                    vm.name
                ));
            }
            None => ui.note(format_args!("copied to {guest_path} in VM {}", vm.name)),
        }
        Ok(ExitCode::SUCCESS)
    }
}
