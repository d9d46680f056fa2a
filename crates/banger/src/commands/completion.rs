use std::process::ExitCode;

use banger_api::{ApiError, ErrorKind};
use clap::ValueEnum;
use clap_complete::env::Shells;

use crate::{error::CommandError, ui::Ui};

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  source <(banger completion bash)                    this shell
  banger completion fish > ~/.config/fish/completions/banger.fish")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
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
        ui.line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}
