use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use banger_api::{ApiError, ErrorKind, is_hidden};
use banger_client::Client;
use clap::ValueEnum;
use clap_complete::{
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use tokio::time::timeout;

use crate::{error::CommandError, ui::Ui};

/// Timeout for names after a press of Tab.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  source <(banger completion bash)                    for this shell
  banger completion fish > ~/.config/fish/completions/banger.fish")]
pub(crate) struct Completion {
    /// Shell to print the script for
    shell: Shell,
}

/// Adds the names of existing objects to the completion of arguments that accept them.
pub(super) fn with_names(command: clap::Command) -> clap::Command {
    let with_candidates = |argument: clap::Arg| {
        let is_option = argument.get_long().is_some();
        let kinds: &[&str] = match argument.get_id().as_str() {
            "vm" | "vms" => &["vms"],
            // A new VM's image and kernel may also come from the catalog.
            "image" if is_option => &["images", "catalog/images"],
            "image" | "images" => &["images"],
            "catalog_image" => &["catalog/images"],
            "kernel" if is_option => &["kernels", "catalog/kernels"],
            "kernel" => &["kernels"],
            "catalog_kernel" => &["catalog/kernels"],
            _ => return argument,
        };
        argument.add(ArgValueCandidates::new(move || names(kinds)))
    };
    command.mut_args(with_candidates).mut_subcommands(with_names)
}

/// Returns no names on failure: a shell cannot show errors.
fn names(kinds: &[&str]) -> Vec<CompletionCandidate> {
    let request = async {
        let client = Client::new().ok()?;
        let mut names = BTreeSet::new();
        for kind in kinds {
            names.extend(client.names(kind).await.ok()?);
        }
        Some(names)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let request = async { timeout(TIMEOUT, request).await.ok().flatten() };
    let names = runtime.ok().and_then(|runtime| runtime.block_on(request)).unwrap_or_default();
    // A shell may print candidates as they are.
    let visible = names.into_iter().filter(|name| !name.contains(is_hidden));
    visible.map(CompletionCandidate::new).collect()
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(crate) fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let name = match self.shell {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        };
        let shells = Shells::builtins();
        let completer = shells.completer(name).ok_or_else(|| {
            ApiError::new(ErrorKind::Invalid, format!("there are no completions for {name}"))
        })?;
        let mut script = Vec::new();
        completer.write_registration("COMPLETE", "banger", "banger", "banger", &mut script)?;
        ui.bytes(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
