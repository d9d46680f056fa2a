use std::{path::PathBuf, process::ExitCode};

use banger_api::{ApiError, ErrorKind};
use banger_client::Client;
use serde::Serialize;

use crate::{
    error::CommandError,
    ssh::{Edit, SshFiles, edit, is_installed, personal},
    ui::{Format, Table, Ui},
};

/// Show what tells ssh the way into VMs, or have your ssh include it
///
/// Then `ssh VM.vm` works, and with it scp, sftp, rsync, port forwards and an editor's remote mode, with any image: banger
/// itself is the other end. ssh asks for no key, and knows the VMs by a file of banger's own. The key that is shown is for
/// an sshd of an image's own, which lets root in by it.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger ssh-config --install              once; then: ssh box.vm, scp -r src box.vm:
  banger ssh-config --uninstall            ~/.ssh/config as it was
  ssh -F \"$(banger ssh-config -q)\" box.vm  without a change to it")]
pub(crate) struct SshConfig {
    /// Let ~/.ssh/config begin with an Include of it
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,
    /// Remove that from ~/.ssh/config
    #[arg(long)]
    uninstall: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Shown {
    /// The configuration to include.
    file: PathBuf,
    /// The line that does.
    include: String,
    /// The file by which ssh knows the VMs.
    known_hosts: PathBuf,
    /// The key by which an sshd in a guest lets root in.
    key: PathBuf,
    /// The user's own configuration.
    ssh_config: PathBuf,
    /// Whether that has the line.
    installed: bool,
}

impl SshConfig {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let path = users_config()?;
        if self.uninstall {
            let was = edit(&path, Edit::Uninstall)?;
            ui.note(format_args!(
                "{} {}",
                path.display(),
                if was { "is as it was" } else { "has no line of banger's" }
            ));
            return Ok(ExitCode::SUCCESS);
        }
        let client = Client::new()?;
        let files = SshFiles::prepare(client.dirs(), &SshFiles::program()?)?;
        let line = files.include()?;
        if self.install {
            let changed = edit(&path, Edit::Install(&line))?;
            let words = if changed { "includes it now" } else { "includes it already" };
            ui.note(format_args!("{} {words}: ssh VM.vm", path.display()));
            return Ok(ExitCode::SUCCESS);
        }
        // What it shows is there, if it can be.
        personal::key(client.dirs(), ui);
        let shown = Shown {
            file: files.config(),
            include: String::from_utf8_lossy(&line).into_owned(),
            known_hosts: files.known_hosts(),
            key: SshFiles::client_key(client.dirs()),
            installed: is_installed(&path, &line),
            ssh_config: path,
        };
        ui.show(&self.format, &shown, |shown| shown.file.display().to_string(), table)?;
        if !shown.installed && self.format.is_table() {
            ui.note("`banger ssh-config --install` puts that line first in your ssh's configuration");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(shown: &Shown) -> Table {
    let installed = if shown.installed { "has the line" } else { "does not have the line" };
    Table::of_fields([
        ("file", shown.file.display().to_string()),
        ("line", shown.include.clone()),
        ("known hosts", shown.known_hosts.display().to_string()),
        ("key", shown.key.display().to_string()),
        ("your ssh's", format!("{} {installed}", shown.ssh_config.display())),
    ])
}

fn users_config() -> Result<PathBuf, ApiError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let missing = || ApiError::new(ErrorKind::Invalid, "HOME is not set, so there is no ~/.ssh/config");
    Ok(home.ok_or_else(missing)?.join(".ssh/config"))
}
