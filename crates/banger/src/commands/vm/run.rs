use std::process::ExitCode;

use banger_api::{CreateVm, Defaults, ErrorKind, Limits, Size, Vm, VmName, Vmm};
use banger_client::{Client, Events};

use crate::{
    commands::{reference, watch::watch},
    error::CommandError,
    session::{self, Wanted},
    ui::{Timing, Ui, now_ns},
};

/// Make a VM and run a command or a shell in it
///
/// Without a command it is a login shell. The exit status is the command's own, 128+n when signal n ended it, or 125 when
/// banger itself failed. The VM stays afterwards, unless --rm.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm run --rm -- uname -a
  banger vm run --rm --vcpu 4 --memory 4G -- sh -c 'nproc; free -m'
  echo hello | banger vm run --rm -- cat
  banger vm run -d --name box")]
pub(crate) struct Run {
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
    /// Set a variable for the command; without a value, to the one it has here
    #[arg(short, long, value_parser = super::variable, value_name = "NAME[=VALUE]")]
    env: Vec<(String, String)>,
    /// Delete the VM however the session ends
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Leave the VM running in the background and print its name
    #[arg(short, long, conflicts_with = "command")]
    detach: bool,
    /// Print where the time went
    #[arg(long)]
    timing: bool,
    /// Command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
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

impl Run {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let in_session = |failure: CommandError| match failure.error {
            Some(error) => CommandError::in_session(error),
            None => failure,
        };
        self.make_and_enter(ui).await.map_err(in_session)
    }

    async fn make_and_enter(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let mut timing = Timing::new(ui);
        let asked = now_ns();
        timing.end("banger starts", ui.began_ns);
        let mut events = client.run_vm(&self.request()).await?;
        timing.end("reach bangerd", asked);
        let (vm, spans) = watch::<Vm>(&client, &mut events, ui).await?;
        timing.add(spans);
        if self.detach {
            ui.line(&vm.name)?;
            if self.timing {
                timing.print(ui, now_ns());
            }
            return Ok(ExitCode::SUCCESS);
        }
        let wanted = Wanted { argv: self.command, env: self.env, ..Wanted::default() };
        let began = now_ns();
        let session = session::run(&client, vm.id.as_str(), wanted).await;
        if let Ok(ended) = &session {
            timing.end("session", began);
            let first_byte = ended.first_byte_ns;
            if self.rm {
                let began = now_ns();
                delete(&client, &vm, events, ui).await;
                timing.end("delete", began);
            }
            if self.timing {
                timing.print(ui, first_byte);
            }
        } else if self.rm {
            delete(&client, &vm, events, ui).await;
        }
        if !self.rm && session.is_ok() {
            ui.note(format_args!("VM {0} stays; `banger vm delete {0}` ends it", vm.name));
        }
        Ok(session?.status.shell_code().into())
    }

    fn request(&self) -> CreateVm {
        CreateVm {
            name: self.name.clone(),
            image: self.image.clone(),
            kernel: self.kernel.clone(),
            vcpu: self.vcpu,
            memory: self.memory,
            disk_size: self.disk_size,
            system_overlay_size: self.system_overlay_size,
            vmm: self.vmm,
            nat: None,
            no_start: false,
            rm: self.rm,
            detach: self.detach,
        }
    }
}

/// Deletes a VM whose session is over. If this is cut short too, the daemon does it when `session` is hung up.
async fn delete(client: &Client, vm: &Vm, session: Events, ui: &Ui) {
    let deleted = async { client.delete_vm(vm.id.as_str(), true).await?.result::<()>(|_| {}).await };
    match deleted.await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => ui.warning(format_args!("VM {} could not be deleted: {error}", vm.name)),
    }
    drop(session);
}
