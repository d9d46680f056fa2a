use std::process::ExitCode;

use banger_api::WatchEvents;
use banger_client::Client;
use jiff::Timestamp;

use crate::{commands::since::since, error::CommandError, ui::Ui};

/// Print events of VMs, images, kernels and operations as JSON lines
///
/// The daemon keeps only recent events, and none from before its start.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger events                 recent events
  banger events -f              new events
  banger events -f --since 5m   events of the last five minutes, then new ones
  banger events -f | jq -r 'select(.kind == \"vm_state\") | .name + \" \" + .to'")]
pub(crate) struct EventsCommand {
    /// Follow new events
    #[arg(short, long)]
    follow: bool,
    /// Show only events newer than this: 90s, 10m, 2h, or a time such as 2026-11-25T10:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

impl EventsCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let watch = WatchEvents { follow: self.follow, since: self.since };
        ui.json_stream(Client::new()?.events(watch).await?).await?;
        Ok(ExitCode::SUCCESS)
    }
}
