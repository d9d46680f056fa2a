use std::process::ExitCode;

use banger_api::{LogSource, ReadLog};
use banger_client::Client;
use jiff::Timestamp;

use crate::{
    commands::{reference::reference, since::since},
    error::CommandError,
    ui::Ui,
};

/// Print what a VM's console has shown, or another log of the VM
///
/// The last 2 MiB of a console are kept, and 1 MiB of what its VMM says, also while the VM is down.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm logs box               the console, as far as it is kept
  banger vm logs -f -n 20 box      its last lines, and then what comes, until the VM is down
  banger vm logs --since 10m box   what it showed in the last ten minutes
  banger vm logs --daemon box      what bangerd has done with the VM")]
pub(crate) struct Logs {
    /// Id, name, or the beginning of either
    #[arg(value_parser = reference())]
    vm: String,
    #[command(flatten)]
    source: Source,
    /// Go on with what comes, until the VM is down
    #[arg(short, long)]
    follow: bool,
    /// Only what is newer: 90s, 10m, 2h, or a time such as 2026-11-25T10:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only the last lines, so many
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
}

/// One of them.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Source {
    /// The guest's console (the default)
    #[arg(long)]
    console: bool,
    /// The VMM's own words instead
    #[arg(long)]
    vmm: bool,
    /// Only the lines of banger's agent on the console
    #[arg(long)]
    agent: bool,
    /// The lines about the VM in the daemon's log instead, in JSON
    #[arg(long)]
    daemon: bool,
}

impl Logs {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let source = match self.source {
            Source { vmm: true, .. } => LogSource::Vmm,
            Source { agent: true, .. } => LogSource::Agent,
            Source { daemon: true, .. } => LogSource::Daemon,
            _ => LogSource::Console,
        };
        let read = ReadLog { source, follow: self.follow, since: self.since, tail: self.tail };
        ui.print_all(Client::new()?.logs(&self.vm, &read).await?).await?;
        Ok(ExitCode::SUCCESS)
    }
}
