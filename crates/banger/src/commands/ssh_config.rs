use std::{path::PathBuf, process::ExitCode};

use banger_api::{ApiError, ErrorKind};
use banger_client::Client;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    config,
    error::CommandError,
    ssh::{Edit, SshFiles, edit, is_installed, personal},
    ui::{Format, Table, Ui},
};

/// Print or install the OpenSSH configuration for `ssh VM.vm`
///
/// With it, ssh, scp, sftp, rsync, port forwarding and an editor's remote mode work with any image, because banger
/// itself is the SSH server. ssh needs no key, and knows the VMs by banger's own known_hosts file. The key shown is
/// for an image's own sshd, which accepts it for root.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger ssh-config --install              once, then: ssh box.vm, scp -r src box.vm:
  banger ssh-config --uninstall            restore ~/.ssh/config
  ssh -F \"$(banger ssh-config -q)\" box.vm  without changing ~/.ssh/config")]
pub(crate) struct SshConfig {
    /// Add an Include line at the beginning of ~/.ssh/config
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,
    /// Remove that line from ~/.ssh/config
    #[arg(long)]
    uninstall: bool,
    #[command(flatten)]
    format: Format,
}

/// The OpenSSH configuration for VMs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SshConfigInfo {
    /// The configuration to include.
    file: PathBuf,
    /// The line that includes it.
    include: String,
    /// The file with the VMs' host key.
    known_hosts: PathBuf,
    /// The key that an sshd in a guest accepts for root.
    key: PathBuf,
    /// The user's own configuration.
    ssh_config: PathBuf,
    /// Whether the user's configuration has the line.
    installed: bool,
}

impl SshConfig {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let path = user_config_path()?;
        let lock = config::dirs()?.state.join("ssh-config.lock");
        if self.uninstall {
            let changed = edit(&path, Edit::Uninstall, &lock)?;
            ui.note(format_args!(
                "{} {}",
                path.display(),
                if changed { "was restored" } else { "has no lines from banger" }
            ));
            return Ok(ExitCode::SUCCESS);
        }
        let client = Client::new()?;
        let files = SshFiles::prepare(client.dirs(), &SshFiles::program()?)?;
        let line = files.include_line()?;
        if self.install {
            let changed = edit(&path, Edit::Install(&line), &lock)?;
            let verb = if changed { "now includes" } else { "already includes" };
            ui.note(format_args!("{} {verb} banger's configuration: use ssh VM.vm", path.display()));
            return Ok(ExitCode::SUCCESS);
        }
        // Creates the key that is shown, if possible.
        personal::key(client.dirs(), ui);
        let info = SshConfigInfo {
            file: files.config(),
            include: String::from_utf8_lossy(&line).into_owned(),
            known_hosts: files.known_hosts(),
            key: SshFiles::client_key(client.dirs()),
            installed: is_installed(&path, &line),
            ssh_config: path,
        };
        ui.show(&self.format, &info, |info| info.file.display().to_string(), table)?;
        if !info.installed && self.format.is_table() {
            ui.note("add that line to ~/.ssh/config with: banger ssh-config --install");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(info: &SshConfigInfo) -> Table {
    let installed = if info.installed { "has the line" } else { "does not have the line" };
    Table::from_fields([
        ("file", info.file.display().to_string()),
        ("line", info.include.clone()),
        ("known hosts", info.known_hosts.display().to_string()),
        ("key", info.key.display().to_string()),
        ("ssh config", format!("{} {installed}", info.ssh_config.display())),
    ])
}

fn user_config_path() -> Result<PathBuf, ApiError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let missing = || ApiError::new(ErrorKind::Invalid, "HOME is not set, so there is no ~/.ssh/config");
    Ok(home.ok_or_else(missing)?.join(".ssh/config"))
}
