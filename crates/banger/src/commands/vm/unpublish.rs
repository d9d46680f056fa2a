use std::process::ExitCode;

use banger_api::{PortSelector, UnpublishPorts, Vm};
use banger_client::Client;

use crate::{commands::reference::reference, error::CommandError, operation::watch, signals, ui::Ui};

/// Stop publishing ports of a VM, and print its name
///
/// Open connections to them are closed.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm unpublish box 8080
  banger vm unpublish box 0.0.0.0:8080:80
  banger vm unpublish box --all")]
pub(crate) struct Unpublish {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Ports of the host, as they were published or without the guest's port
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "[ADDR:]HOST[:GUEST][/udp]")]
    ports: Vec<PortSelector>,
    /// Stop publishing all ports of the VM, also those of `publish --all`
    #[arg(long)]
    all: bool,
}

impl Unpublish {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let request = UnpublishPorts { ports: self.ports, all: self.all };
        let events = signals::cancellable().run(client.unpublish(&self.vm, &request)).await?;
        let (vm, _) = watch::<Vm>(&client, &mut events?, ui).await?;
        ui.line(&vm.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
