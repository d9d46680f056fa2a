use std::process::ExitCode;

use banger_client::Client;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    commands::reference::reference,
    error::CommandError,
    ui::{Format, Table, Ui},
    workspace::Workspaces,
};

/// Pull a VM's commits and uncommitted work into the host's repository
///
/// They are stored as refs/banger/VM/heads/BRANCH, refs/banger/VM/HEAD and, for uncommitted work,
/// refs/banger/VM/uncommitted. Stashes, tags, notes, staged changes, other working trees, and commits that only the
/// reflog names get refs there too, if your repository does not have them. Your branches, index and files stay
/// unchanged. Replaced work, as of an earlier VM with that name, is kept as refs/banger/VM/replaced/COMMIT.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm workspace pull box
  git log ..refs/banger/box/HEAD
  git merge refs/banger/box/HEAD")]
pub(crate) struct Pull {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Directory of the repository in the VM [default: the only one]
    #[arg(long, value_name = "DIRECTORY")]
    guest_path: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// A ref that was set.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ref {
    /// Its name in the host's repository.
    name: String,
    /// The id of its commit, or of the tag's object.
    commit: String,
}

impl Pull {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui)?;
        let vm = client.vm(&self.vm).await?;
        let record = workspaces.find(&vm, self.guest_path.as_deref())?;
        let root = record.root().to_owned();
        let pulled = workspaces.pull(&vm, record).await?;
        let refs: Vec<_> = pulled.refs.into_iter().map(|(name, commit)| Ref { name, commit }).collect();
        ui.list(&self.format, &refs, |entry| entry.name.clone(), table)?;
        if self.format.is_table() {
            ui.note(format_args!("the refs are in {}", root.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(refs: &[Ref]) -> Table {
    let mut table = Table::new(["REF", "COMMIT"]);
    for entry in refs {
        table.row([entry.name.clone(), entry.commit.get(..12).unwrap_or(&entry.commit).to_owned()]);
    }
    table
}
