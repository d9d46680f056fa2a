//! Hardware arguments of the commands that create a VM.

use banger_api::{Config, CreateVm, Egress, HostPorts, HttpProxy, Limits, NetworkKind, Size, VmName, Vmm};
use banger_client::Client;

use crate::{
    commands::reference::reference, config, credentials, error::CommandError, ssh::personal, ui::Ui,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Hardware {
    /// Name of the VM: a-z, 0-9 and -, at most 63 characters [default: generated]
    #[arg(long)]
    name: Option<VmName>,
    /// Image: local, from the catalog, or from a registry, such as alpine:3.20 or ghcr.io/org/thing
    #[arg(long, value_parser = reference())]
    image: Option<String>,
    /// Kernel: local or from the catalog
    #[arg(long, value_parser = reference())]
    kernel: Option<String>,
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
    /// Size of the work disk, mounted at /root
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Size of the writable layer over the image (system overlay)
    #[arg(long, value_name = "SIZE")]
    system_overlay_size: Option<Size>,
    /// VMM: firecracker or qemu
    #[arg(long)]
    vmm: Option<Vmm>,
    #[command(flatten)]
    network: NetworkFlags,
    /// Proxies of the VM's sessions until it stops: host (as in this shell's HTTPS_PROXY), none, or a URL
    #[arg(long, value_name = "PROXY")]
    http_proxy: Option<HttpProxy>,
}

/// Flags of a VM's network.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkFlags {
    /// Network: user, or none
    #[arg(long = "network", id = "kind", value_name = "KIND")]
    kind: Option<NetworkKind>,
    /// Destinations that the VM reaches: open (all but the host), learn (the same, recorded for a list), public (no
    /// private addresses), none, or a list such as pypi.org,*.crates.io:443,10.0.0.5:5432
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["nat", "no_nat"])]
    egress: Option<Egress>,
    /// Same as --egress open
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Same as --egress none
    #[arg(long, overrides_with = "nat")]
    no_nat: bool,
    /// TCP port of the host's loopback that the VM reaches as host.banger.internal:PORT, under every policy
    /// (repeatable), or none
    #[arg(long, value_name = "PORT")]
    allow_host: Vec<HostPorts>,
}

impl NetworkFlags {
    /// Returns the kind of network that a flag requests.
    pub(super) fn kind(&self) -> Option<NetworkKind> {
        self.kind
    }

    /// Returns the policy that a flag requests.
    pub(super) fn egress(&self) -> Option<Egress> {
        match (&self.egress, self.nat, self.no_nat) {
            (Some(egress), ..) => Some(egress.clone()),
            (None, true, _) => Some(Egress::Open),
            (None, _, true) => Some(Egress::None),
            (None, false, false) => None,
        }
    }

    /// Returns the ports of the host that flags allow.
    pub(super) fn allow_host(&self) -> Result<Option<HostPorts>, CommandError> {
        if self.allow_host.is_empty() {
            return Ok(None);
        }
        let ports = self.allow_host.iter().flat_map(HostPorts::ports).copied();
        HostPorts::new(ports).map(Some).map_err(|error| CommandError::usage(error.to_string()))
    }
}

impl Hardware {
    /// Returns the request for such a VM: unset flags are filled from `config`.
    ///
    /// # Errors
    /// Returns an error if the flags allow too many ports of the host, a proxy is not valid, or other users could read
    /// its password.
    pub(super) async fn request(
        &self,
        config: &Config,
        client: &Client,
        ui: &Ui,
    ) -> Result<CreateVm, CommandError> {
        if self.http_proxy.as_ref().is_some_and(HttpProxy::has_password) {
            let message = "--http-proxy with a user or password: other users can read a command's arguments";
            let hint = "set HTTPS_PROXY and use --http-proxy host, or set network.http_proxy in config.toml";
            return Err(CommandError::usage(message).with_hint(Some(hint.to_owned())));
        }
        let flags = CreateVm {
            name: self.name.clone(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpu: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            system_overlay_size: self.system_overlay_size,
            vmm: self.vmm,
            network_kind: self.network.kind(),
            egress: self.network.egress(),
            allow_host: self.network.allow_host()?,
            personal: personal::collect(config, self.http_proxy.as_ref(), client.dirs(), ui)?,
            ..CreateVm::default()
        };
        let request = config::fill_defaults(config, flags)?;
        let credentials = credentials::for_missing_image(client, request.image.as_deref(), ui).await;
        Ok(CreateVm { credentials, ..request })
    }
}
