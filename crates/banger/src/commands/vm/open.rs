use std::{
    env,
    process::{Command, ExitCode, Stdio},
};

use banger_api::{ApiError, ErrorKind, Remedy, SubjectKind, Vm, VmName, VmState};
use banger_client::Client;
use banger_proto::Transport;
use schemars::JsonSchema;
use serde::Serialize;

use super::ports::{is_reachable, proxy_url};
use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
};

/// Variables that are set where a browser can open a window.
const DISPLAYS: [&str; 2] = ["WAYLAND_DISPLAY", "DISPLAY"];

/// Show a web server of a VM in the browser
///
/// The address is http://PORT.VM.localhost:7788/, which bangerd serves on loopback. Without a display, or with --print,
/// it is only printed. The port need not be published.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm open box
  banger vm open box 3000
  curl \"$(banger vm open box 3000 --print)\"")]
pub(crate) struct Open {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Port in the VM [default: the lowest with HTTP]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only print the address
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    format: Format,
}

/// The address of a web server of a VM.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OpenedPort")]
pub(crate) struct Opened {
    /// The VM.
    vm: VmName,
    /// The port in the VM.
    port: u16,
    /// The URL.
    url: String,
}

impl Open {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let vm = client.vm(&self.vm).await?;
        if vm.state != VmState::Running {
            let message = format!("VM {} is {}", vm.name, vm.state);
            let remedy = if vm.state == VmState::Paused { Remedy::ResumeVm } else { Remedy::StartVm };
            let error = ApiError::new(ErrorKind::NotRunning, message).about(SubjectKind::Vm, &vm.name);
            return Err(error.remedy(remedy).into());
        }
        let proxy = proxy_port(&client).await?;
        let port = match self.port {
            Some(port) => port,
            None => http_port(&client, ui, &vm).await?,
        };
        let opened = Opened { url: proxy_url(&vm.name, port, proxy), vm: vm.name, port };
        if self.format.is_table() {
            if self.print || !open_browser(&opened.url) {
                ui.line(&opened.url)?;
            }
        } else {
            ui.show(&self.format, &opened, |opened| opened.url.clone(), table)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(opened: &Opened) -> Table {
    Table::from_fields([("url", opened.url.clone())])
}

/// Returns the port of the reverse proxy.
async fn proxy_port(client: &Client) -> Result<u16, CommandError> {
    let status = client.daemon_status().await?;
    let message = match status.and_then(|status| status.proxy) {
        Some(proxy) => match proxy.error {
            None => return Ok(proxy.port),
            Some(error) => format!("the reverse proxy is not available: {error}"),
        },
        None => "the reverse proxy is off".to_owned(),
    };
    Err(ApiError::new(ErrorKind::Busy, message).remedy(Remedy::SetProxyPort).into())
}

/// Returns the lowest port of `vm` that speaks HTTP.
async fn http_port(client: &Client, ui: &Ui, vm: &Vm) -> Result<u16, CommandError> {
    let listeners = banger_client::ports(client, vm.id.as_str()).await?;
    let http = listeners.iter().filter(|listener| {
        listener.http && listener.protocol == Transport::Tcp && is_reachable(listener.address)
    });
    let mut ports: Vec<u16> = http.map(|listener| listener.port).filter(|port| *port > 0).collect();
    ports.sort_unstable();
    ports.dedup();
    let Some((first, others)) = ports.split_first() else {
        let message = format!("nothing in VM {} speaks HTTP", vm.name);
        let error = ApiError::new(ErrorKind::NotFound, message).about(SubjectKind::Vm, &vm.name);
        return Err(error.remedy(Remedy::ListPorts).into());
    };
    if !others.is_empty() {
        let others: Vec<_> = others.iter().map(ToString::to_string).collect();
        ui.note(format_args!("port {first} of {}: it also speaks HTTP on {}", vm.name, others.join(", ")));
    }
    Ok(*first)
}

/// Opens `url` in the user's browser. Returns false if there is no display or no program for that.
fn open_browser(url: &str) -> bool {
    let has_display = DISPLAYS.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    has_display && command.status().is_ok_and(|status| status.success())
}
