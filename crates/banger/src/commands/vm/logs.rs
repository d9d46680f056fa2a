use std::process::ExitCode;

use banger_api::{LogSource, ReadLog};
use banger_client::Client;
use jiff::Timestamp;

use crate::{
    commands::{reference::reference, since::since},
    error::CommandError,
    ui::Ui,
};

/// Print a VM's console log, or another log of the VM
///
/// banger keeps the last 2 MiB of a console and 1 MiB of its VMM's log, also while the VM is stopped. On a terminal,
/// control characters are removed.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm logs box               print the console log
  banger vm logs -f -n 20 box      print its last 20 lines, then follow it until the VM stops
  banger vm logs --since 10m box   print its last ten minutes
  banger vm logs --daemon box      print bangerd's log lines about the VM")]
pub(crate) struct Logs {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    #[command(flatten)]
    source: Source,
    /// Follow the log until the VM stops
    #[arg(short, long)]
    follow: bool,
    /// Show only lines newer than this: 90s, 10m, 2h, or a time such as 2026-11-25T10:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Number of lines to show from the end
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
}

/// The log to print.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Source {
    /// Show the guest's console (the default)
    #[arg(long)]
    console: bool,
    /// Show the VMM's log instead
    #[arg(long)]
    vmm: bool,
    /// Show only the agent's lines of the console
    #[arg(long)]
    agent: bool,
    /// Show the daemon's log lines about the VM instead, as JSON
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
        let log = Client::new()?.logs(&self.vm, &read).await?;
        match source {
            LogSource::Daemon => ui.json_stream(log).await?,
            _ => ui.text_stream(log).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
