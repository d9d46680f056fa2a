//! What a VM to be is made of, as the commands that make one take it.

use banger_api::{CreateVm, Defaults, Limits, Size, VmName, Vmm};

use crate::commands::reference;

#[derive(Debug, clap::Args)]
pub(crate) struct Hardware {
    /// Name the VM: a-z, 0-9 and -, at most 63 [default: made up]
    #[arg(long)]
    name: Option<VmName>,
    /// Image
    #[arg(long, env = "BANGER_IMAGE", value_parser = reference())]
    image: Option<String>,
    /// Kernel
    #[arg(long, env = "BANGER_KERNEL", value_parser = reference())]
    kernel: Option<String>,
    /// Virtual CPUs, 1 to 32
    #[arg(long, env = "BANGER_VCPU", value_parser = clap::value_parser!(u32).range(1..=i64::from(Limits::VCPU)), value_name = "COUNT")]
    vcpu: Option<u32>,
    /// Memory, as 512M or 4G; a bare number is MiB
    #[arg(long, env = "BANGER_MEMORY", value_name = "SIZE")]
    memory: Option<Size>,
    /// Size of the disk at /root
    #[arg(long, env = "BANGER_DISK_SIZE", value_name = "SIZE")]
    disk_size: Option<Size>,
    /// Size of the layer over the image that takes all other changes
    #[arg(long, env = "BANGER_SYSTEM_OVERLAY_SIZE", value_name = "SIZE")]
    system_overlay_size: Option<Size>,
    /// Run it with firecracker or qemu
    #[arg(long, env = "BANGER_VMM")]
    vmm: Option<Vmm>,
    /// Let its network reach out [default]
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Let its network reach nothing
    #[arg(long, overrides_with = "nat")]
    no_nat: bool,
}

impl Hardware {
    /// The request for such a VM.
    pub(super) fn request(&self) -> CreateVm {
        CreateVm {
            name: self.name.clone(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpu: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            system_overlay_size: self.system_overlay_size,
            vmm: self.vmm,
            nat: switch(self.nat, self.no_nat),
            ..CreateVm::default()
        }
    }
}

/// A pair of flags as what they say, if anything.
pub(super) fn switch(on: bool, off: bool) -> Option<bool> {
    (on || off).then_some(on)
}

/// Puts the defaults into the help: those that apply on this host, where config.toml says nothing else.
pub(crate) fn with_defaults(command: clap::Command) -> clap::Command {
    let cpus = std::thread::available_parallelism().ok().map(std::num::NonZero::get);
    let info = rustix::system::sysinfo();
    let memory = Size::bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)));
    let defaults = [
        ("image", Defaults::IMAGE.to_owned()),
        ("kernel", format!("the image's, else {}", Defaults::KERNEL)),
        ("vcpu", Defaults::vcpu(cpus).to_string()),
        ("memory", Defaults::memory(Some(memory)).to_string()),
        ("disk_size", Defaults::DISK.to_string()),
        ("system_overlay_size", Defaults::DISK.to_string()),
        ("vmm", "firecracker where KVM works, else qemu".to_owned()),
    ];
    defaults.into_iter().fold(command, |command, (name, default)| {
        command.mut_arg(name, |argument| {
            let help = argument.get_help().cloned().unwrap_or_default();
            argument.help(format!("{help} [default: config.toml's, else {default}]"))
        })
    })
}
