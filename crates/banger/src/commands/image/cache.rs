use std::process::ExitCode;

use banger_api::{PruneCache, Pruned};
use banger_client::Client;
use clap::Subcommand;

use crate::{
    error::CommandError,
    operation::watch,
    ui::{Output, Table, Ui},
};

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    Prune(Prune),
}

impl CacheCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        match self {
            Self::Prune(command) => command.run(ui).await,
        }
    }
}

/// Empty the caches
///
/// This removes image layers from registries, boot initrds of deleted kernels and of other builds of banger, and
/// catalogs that are no longer configured. banger downloads or builds them again when needed. Images, kernels and VMs
/// stay.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger image cache prune --dry-run
  banger image cache prune")]
pub(crate) struct Prune {
    /// Show what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print a table or JSON
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Output,
}

impl Prune {
    async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut events = client.prune_cache(PruneCache { dry_run: self.dry_run }).await?;
        let (pruned, _) = watch::<Pruned>(&client, &mut events, ui).await?;
        match self.output {
            Output::Json => ui.json(&pruned)?,
            Output::Table => ui.table(&table(&pruned))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(pruned: &Pruned) -> Table {
    let mut table = Table::new(["KIND", "FILES", if pruned.dry_run { "WOULD FREE" } else { "FREED" }]);
    for kind in &pruned.kinds {
        table.row([kind.kind.clone(), kind.files.to_string(), kind.size.to_string()]);
    }
    let files: u64 = pruned.kinds.iter().map(|kind| kind.files).sum();
    table.row(["total".to_owned(), files.to_string(), pruned.size.to_string()]);
    table
}
