use std::{process::ExitCode, time::Duration};

use banger_client::Client;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Measure how fast a running VM's agent answers
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm ping box
  banger vm ping box -c 10 -o json")]
pub(crate) struct Ping {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Number of requests, sent one after another
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    #[command(flatten)]
    format: Format,
}

/// An answered request.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Pong {
    /// Number of the request, from 1.
    number: u32,
    /// Milliseconds between request and answer.
    round_trip_ms: f64,
}

impl Ping {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut pongs = Vec::new();
        for number in 1..=self.count {
            let round_trip = banger_client::ping(&client, &self.vm).await?.round_trip;
            pongs.push(Pong { number, round_trip_ms: in_ms(round_trip) });
        }
        ui.list(&self.format, &pongs, |pong| pong.number.to_string(), table)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns a duration in milliseconds, to the microsecond.
#[allow(clippy::cast_precision_loss)] // for people, and far from 2^53
pub(super) fn in_ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn table(pongs: &[Pong]) -> Table {
    let mut table = Table::new(["NUMBER", "ROUND TRIP"]);
    for pong in pongs {
        table.row([pong.number.to_string(), format!("{:.1} ms", pong.round_trip_ms)]);
    }
    table
}
