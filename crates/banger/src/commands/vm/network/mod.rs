//! `banger vm network`

mod suggest;

use std::process::ExitCode;

use banger_api::{ApiError, Egress, ErrorKind, Flow, ReadFlows};
use banger_client::{Client, JsonLines};
use jiff::{Timestamp, tz::TimeZone};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Show what a VM's network was asked for, and what was refused
///
/// Names, addresses and ports are what the guest has asked for; the count is that of connections. A name without an
/// address did not resolve, because the policy refuses it. "unreachable" is what the host itself has no route to. The
/// record is kept until the VM is deleted.
///
/// The process is the last in the guest to use the destination, and may have ended. Only a running VM knows its
/// processes.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm network box             what it has asked for so far
  banger vm network -f box          also what it asks for from now on, a line each
  banger vm network box -o json     the same as JSON
  banger vm network --suggest box   the list for --egress that allows what was allowed so far")]
pub(crate) struct NetworkCommand {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Print each flow on a line, and again whenever it changes, until the VM is down
    #[arg(short, long, conflicts_with = "quiet")]
    follow: bool,
    /// Print the shortest list of destinations that covers what was allowed, for banger.toml
    ///
    /// With the policy `learn`, that is everything that the VM needs.
    #[arg(long, conflicts_with_all = ["follow", "quiet"])]
    suggest: bool,
    #[command(flatten)]
    format: Format,
}

/// A suggested policy as JSON.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SuggestedEgress {
    /// The rules of a list.
    #[schemars(with = "Vec<String>")]
    egress: Vec<String>,
}

impl NetworkCommand {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let lines = Client::new()?.flows(&self.vm, ReadFlows { follow: self.follow }).await?;
        match (self.follow, self.format.is_table()) {
            (true, true) => follow(ui, JsonLines::new(lines)).await?,
            (true, false) => ui.json_stream(lines).await?,
            (false, _) => {
                let mut lines = JsonLines::new(lines);
                let mut flows = Vec::new();
                while let Some(flow) = lines.next().await? {
                    flows.push(flow);
                }
                if self.suggest {
                    self.suggest(ui, &flows)?;
                } else {
                    ui.list(&self.format, &flows, destination, |flows| table(flows, &TimeZone::system()))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn suggest(&self, ui: &Ui, flows: &[Flow]) -> Result<(), CommandError> {
        let egress: Vec<_> = suggest::suggest(flows).iter().map(ToString::to_string).collect();
        if egress.is_empty() {
            let message =
                format!("VM {} has not reached anything yet, so there is nothing to suggest", self.vm);
            let hint = "run what it needs with --egress learn, then try again";
            return Err(ApiError::new(ErrorKind::NotFound, message).hint(hint).into());
        }
        // A list has a maximum length.
        egress.join(",").parse::<Egress>().map_err(|error| {
            let message = format!("VM {} has reached too many destinations: {error}", self.vm);
            ApiError::new(ErrorKind::Invalid, message).hint("use --egress public")
        })?;
        if !self.format.is_table() {
            return Ok(ui.json(&SuggestedEgress { egress })?);
        }
        ui.line("[network]")?;
        ui.line("egress = [")?;
        egress.iter().try_for_each(|rule| ui.line(format!("    \"{rule}\",")))?;
        Ok(ui.line("]")?)
    }
}

async fn follow(ui: &Ui, mut lines: JsonLines<Flow>) -> Result<(), CommandError> {
    let zone = TimeZone::system();
    while let Some(flow) = lines.next().await? {
        let (verdict, protocol) = (flow.verdict.as_str(), flow.protocol.as_str());
        let time = time(flow.last_at, &zone);
        let (to, count, process) = (shown(&flow), flow.count, process(&flow));
        ui.line(format!("{time}  {verdict:<11}  {protocol:<5}  {to}  {count}  {process}"))?;
    }
    Ok(())
}

fn table(flows: &[Flow], zone: &TimeZone) -> Table {
    let mut table =
        Table::new(["VERDICT", "PROTOCOL", "NAME", "ADDRESS", "PORT", "PROCESS", "PID", "COUNT", "LAST"]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for flow in flows {
        table.row([
            flow.verdict.as_str().to_owned(),
            flow.protocol.as_str().to_owned(),
            or_none(flow.name.clone()),
            or_none(flow.address.map(|address| address.to_string())),
            or_none(flow.port.map(|port| port.to_string())),
            or_none(flow.process.clone()),
            or_none(flow.pid.map(|pid| pid.to_string())),
            flow.count.to_string(),
            time(flow.last_at, zone),
        ]);
    }
    table
}

fn time(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns a flow's destination as a rule of a list has it.
fn destination(flow: &Flow) -> String {
    let to = match (&flow.name, flow.address) {
        (Some(name), _) => name.clone(),
        (None, Some(address)) if address.is_ipv6() && flow.port.is_some() => format!("[{address}]"),
        (None, Some(address)) => address.to_string(),
        (None, None) => String::new(),
    };
    flow.port.map_or_else(|| to.clone(), |port| format!("{to}:{port}"))
}

/// Returns a flow's destination, with the address that its name had.
fn shown(flow: &Flow) -> String {
    match (&flow.name, flow.address) {
        (Some(_), Some(address)) => format!("{} ({address})", destination(flow)),
        _ => destination(flow),
    }
}

/// Returns the process of a flow with its id.
fn process(flow: &Flow) -> String {
    match (&flow.process, flow.pid) {
        (Some(process), Some(pid)) => format!("{process} ({pid})"),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use banger_api::{FlowProtocol, FlowVerdict};

    use super::*;

    #[test]
    fn the_table_shows_names_and_addresses() {
        let at = "2026-11-25T10:00:00Z".parse().unwrap();
        let flow = Flow {
            verdict: FlowVerdict::Allowed,
            protocol: FlowProtocol::Tcp,
            name: Some("pypi.org".to_owned()),
            address: Some([203, 0, 113, 1].into()),
            port: Some(443),
            process: Some("curl".to_owned()),
            pid: Some(212),
            count: 12,
            first_at: at,
            last_at: at,
        };
        let refused = Flow {
            verdict: FlowVerdict::Refused,
            protocol: FlowProtocol::Dns,
            address: None,
            port: None,
            process: None,
            pid: None,
            ..flow.clone()
        };
        let unreachable = Flow {
            verdict: FlowVerdict::Unreachable,
            protocol: FlowProtocol::Udp,
            name: None,
            address: Some("2001:db8::1".parse().unwrap()),
            ..flow.clone()
        };
        assert_eq!(shown(&flow), "pypi.org:443 (203.0.113.1)");
        assert_eq!(
            (shown(&refused), shown(&unreachable)),
            ("pypi.org".to_owned(), "[2001:db8::1]:443".to_owned())
        );
        assert_eq!((process(&flow), process(&refused)), ("curl (212)".to_owned(), "-".to_owned()));
        insta::assert_snapshot!(table(&[flow, refused, unreachable], &TimeZone::UTC), @r"
        VERDICT       PROTOCOL   NAME       ADDRESS       PORT   PROCESS   PID   COUNT   LAST
        allowed       tcp        pypi.org   203.0.113.1   443    curl      212   12      2026-11-25 10:00:00
        refused       dns        pypi.org   -             -      -         -     12      2026-11-25 10:00:00
        unreachable   udp        -          2001:db8::1   443    curl      212   12      2026-11-25 10:00:00
        ");
    }
}
