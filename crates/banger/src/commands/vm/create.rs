use std::process::ExitCode;

use banger_api::{CreateVm, Vm};
use banger_client::Client;

use super::{
    hardware::Hardware,
    publish::{PublishArgs, print_published},
};
use crate::{config, error::CommandError, file_sync, operation::watch, ui::Ui};

/// Create a VM, start it, and print its name
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm create --name box
  banger vm create --name web -p 8080:80
  banger vm create --name later --no-start --vcpu 2 --memory 4G")]
pub(crate) struct Create {
    #[command(flatten)]
    hardware: Hardware,
    #[command(flatten)]
    publish: PublishArgs,
    /// Only create the VM; `banger vm start` starts it
    #[arg(long)]
    no_start: bool,
}

impl Create {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let request = self.hardware.request(&config::load()?, &client, ui).await?;
        let request = CreateVm {
            no_start: self.no_start,
            publish: self.publish.publish,
            publish_all: self.publish.publish_all,
            ..request
        };
        let mut events = client.run_vm(&request).await?;
        let (vm, _) = watch::<Vm>(&client, &mut events, ui).await?;
        if !self.no_start {
            print_published(ui, &vm);
            file_sync::after_start(&client, ui, &vm).await?;
        }
        ui.line(&vm.name)?;
        Ok(ExitCode::SUCCESS)
    }
}
