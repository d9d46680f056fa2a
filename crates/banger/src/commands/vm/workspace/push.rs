use std::process::ExitCode;

use banger_client::Client;
use banger_workspace::{Mode, Options};

use super::selection::DEFAULT_DEPTH;
use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::Ui,
    workspace::{Workspaces, display_path},
};

/// Push new commits of the host's repository to a VM
///
/// They are stored as the branch host/BRANCH, for the VM's own git to merge. The VM's branches, index and files stay
/// unchanged; `workspace prepare` updates those.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm workspace push box
  banger vm exec box -w /root/repo -- git merge host/main")]
pub(crate) struct Push {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Directory of the repository in the VM [default: the only one]
    #[arg(long, value_name = "DIRECTORY")]
    guest_path: Option<String>,
}

impl Push {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui)?;
        let vm = client.vm(&self.vm).await?;
        let record = workspaces.find(&vm, self.guest_path.as_deref())?;
        let options = Options {
            mode: Mode::Metadata,
            depth: DEFAULT_DEPTH,
            include_untracked: false,
            branch: None,
            from: None,
        };
        let guest_path = display_path(record.guest_path());
        let root = record.root().to_owned();
        let snapshot = workspaces.snapshot(&root, options).await?;
        let branch = snapshot.branch().unwrap_or("detached").to_owned();
        if workspaces.push(&vm, record, snapshot).await? {
            ui.note(format_args!("{guest_path} in VM {} has the commits as host/{branch}", vm.name));
        } else {
            ui.note(format_args!("{guest_path} in VM {} is up to date", vm.name));
        }
        Ok(ExitCode::SUCCESS)
    }
}
