//! What a VM to be is made of, as the commands that make one take it.

use banger_api::{Config, CreateVm, Limits, Size, VmName, Vmm};
use banger_client::Client;

use crate::{commands::reference::reference, config, credentials, ssh::personal, ui::Ui};

#[derive(Debug, clap::Args)]
pub(crate) struct Hardware {
    /// Name the VM: a-z, 0-9 and -, at most 63 [default: made up]
    #[arg(long)]
    name: Option<VmName>,
    /// Image: one that is here, of the catalog, or of a registry, as alpine:3.20 or ghcr.io/org/thing
    #[arg(long, value_parser = reference())]
    image: Option<String>,
    /// Kernel
    #[arg(long, value_parser = reference())]
    kernel: Option<String>,
    /// Virtual CPUs, 1 to 32
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::VCPU)), value_name = "COUNT")]
    vcpu: Option<u32>,
    /// Memory, as 512M or 4G; a bare number is MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of the disk at /root
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Size of the layer over the image that takes all other changes
    #[arg(long, value_name = "SIZE")]
    system_overlay_size: Option<Size>,
    /// Run it with firecracker or qemu
    #[arg(long)]
    vmm: Option<Vmm>,
    /// Let its network reach out
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Let its network reach nothing
    #[arg(long, overrides_with = "nat")]
    no_nat: bool,
}

impl Hardware {
    /// The request for such a VM: by its flags, else as in `config`.
    pub(super) async fn request(&self, config: &Config, client: &Client, ui: &Ui) -> CreateVm {
        let flags = CreateVm {
            name: self.name.clone(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpu: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            system_overlay_size: self.system_overlay_size,
            vmm: self.vmm,
            nat: switch(self.nat, self.no_nat),
            personal: personal::of_user(client.dirs(), ui),
            ..CreateVm::default()
        };
        let request = config::fill(config, flags);
        let credentials = credentials::if_needed(client, request.image.as_deref(), ui).await;
        CreateVm { credentials, ..request }
    }
}

/// A pair of flags as what they say, if anything.
pub(super) fn switch(on: bool, off: bool) -> Option<bool> {
    (on || off).then_some(on)
}
