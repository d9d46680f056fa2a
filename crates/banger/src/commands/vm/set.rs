use std::process::ExitCode;

use banger_api::{Limits, SetVm, Size, Vmm};
use banger_client::Client;

use super::hardware::NetworkFlags;
use crate::{
    commands::{reference::reference, several::watch_each},
    error::CommandError,
    ui::Ui,
};

/// Change the hardware of stopped VMs, or the egress policy of any
///
/// A change of the hardware, or of the ports of --allow-host, applies at the next start. A change of the egress policy
/// applies at once, also to open connections. The work disk can only grow; its file system is checked first, and grows
/// with it. A VM keeps the VMM that it last ran with, and KVM if it used that; --vmm changes this.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm set --vcpu 4 --memory 8G box
  banger vm set --disk-size 32G box
  banger vm set --egress pypi.org,*.pythonhosted.org box
  banger vm set --allow-host 5432 box
  banger vm set --vmm qemu box       after firecracker, on a host without KVM")]
pub(crate) struct Set {
    /// Number of virtual CPUs, 1 to 32
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::MAX_VCPU)),
        value_name = "COUNT"
    )]
    vcpu: Option<u32>,
    /// Memory, such as 512M or 4G; a bare number is MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of the work disk at /root, which can only grow
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// VMM from the next start on: firecracker or qemu
    #[arg(long)]
    vmm: Option<Vmm>,
    #[command(flatten)]
    network: NetworkFlags,
    /// Ids, names, or unique prefixes of either
    #[arg(required = true, value_name = "VM", value_parser = reference())]
    vms: Vec<String>,
}

impl Set {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let changes = SetVm {
            vcpu: self.vcpu,
            memory: self.memory,
            network_kind: self.network.kind(),
            egress: self.network.egress(),
            allow_host: self.network.allow_host()?,
            disk_size: self.disk_size,
            vmm: self.vmm,
        };
        if changes == SetVm::default() {
            return Err(CommandError::usage(
                "specify what to change: --vcpu, --memory, --disk-size, --vmm, --network, --egress or \
                 --allow-host",
            ));
        }
        watch_each(&client, ui, &self.vms, async |vm| client.set_vm(vm.id.as_str(), changes.clone()).await)
            .await
    }
}
