//! The command lines that a case can have, and the promises about each.

use std::ffi::OsString;

/// Name of the VM.
pub(crate) const VM: &str = "box";

/// The user's repository, below the home directory.
const REPOSITORY: &str = "repo";

/// File that an export is written to.
const PATCH: &str = "changes.patch";

/// A command line of `banger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `vm cp VM:SOURCE TARGET`.
    CopyOut {
        /// Path in the guest.
        source: &'static str,
        /// Path below the user's home directory, which is the working directory.
        target: &'static str,
    },
    /// `vm cp VM:SOURCE -`.
    Print {
        /// Path in the guest.
        source: &'static str,
    },
    /// `vm cp SOURCE VM:`.
    CopyIn,
    /// `vm exec VM -- true`. If `silent`, its program writes nothing, so all output is banger's.
    Exec {
        /// Whether the guest sends no output.
        silent: bool,
    },
    /// `vm ssh VM -- true`, with a program that writes nothing.
    Ssh,
    /// `vm ssh VM -W localhost:80`.
    SshForward,
    /// `vm ssh VM -R 0:localhost:1 -- true`, with a program that writes nothing.
    SshListen,
    /// `vm ssh VM -s sftp`.
    Sftp,
    /// `vm workspace export VM`.
    Export(ExportTo),
    /// `vm workspace pull VM`.
    Pull,
    /// `vm workspace prepare VM REPOSITORY`.
    Prepare,
    /// `vm workspace push VM`.
    Push,
    /// `vm delete --force VM`, which saves the work in it first.
    Delete,
    /// `vm ports VM`.
    Ports {
        /// Whether the output is JSON.
        json: bool,
    },
    /// `vm open VM --print`.
    Open,
    /// `vm ping VM`.
    Ping,
    /// `vm health VM`.
    Health {
        /// Whether the output is JSON.
        json: bool,
    },
    /// `vm show VM`.
    Show {
        /// Whether the output is JSON.
        json: bool,
    },
    /// `vm list`.
    List,
    /// `vm logs VM`.
    Logs,
}

/// Destination of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportTo {
    /// The patch, on the terminal.
    Terminal,
    /// The list of changed files, on the terminal.
    Table,
    /// The same as JSON.
    Json,
    /// A file.
    File,
}

/// Where a command's output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From banger, which may quote the guest.
    Banger,
    /// From the guest's console: lines of any words.
    Console,
    /// From a program or a file in the guest: the user has asked for its bytes.
    Guest,
}

impl Command {
    /// Returns the command line, with the program's name.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let words: Vec<String> = match self {
            Self::CopyOut { source, target } => vec!["cp".into(), format!("{VM}:{source}"), (*target).into()],
            Self::Print { source } => vec!["cp".into(), format!("{VM}:{source}"), "-".into()],
            Self::CopyIn => ["cp", REPOSITORY, "box:/root/"].map(Into::into).into(),
            Self::Exec { .. } => ["exec", VM, "--", "true"].map(Into::into).into(),
            Self::Ssh => ["ssh", VM, "--", "true"].map(Into::into).into(),
            Self::SshForward => ["ssh", VM, "-W", "localhost:80"].map(Into::into).into(),
            Self::SshListen => ["ssh", VM, "-R", "0:localhost:1", "--", "true"].map(Into::into).into(),
            Self::Sftp => ["ssh", VM, "-s", "--", "sftp"].map(Into::into).into(),
            Self::Export(to) => {
                let options: &[&str] = match to {
                    ExportTo::Terminal => &[],
                    ExportTo::Table => &["-o", "table"],
                    ExportTo::Json => &["-o", "json"],
                    ExportTo::File => &["--output", PATCH],
                };
                ["workspace", "export", VM].iter().chain(options).map(|word| (*word).into()).collect()
            }
            Self::Pull => ["workspace", "pull", VM].map(Into::into).into(),
            Self::Prepare => ["workspace", "prepare", VM, REPOSITORY].map(Into::into).into(),
            Self::Push => ["workspace", "push", VM].map(Into::into).into(),
            Self::Delete => ["delete", "--force", VM].map(Into::into).into(),
            Self::Ports { json } => with_format("ports", *json),
            Self::Open => ["open", VM, "--print"].map(Into::into).into(),
            Self::Ping => ["ping", VM].map(Into::into).into(),
            Self::Health { json } => with_format("health", *json),
            Self::Show { json } => with_format("show", *json),
            Self::List => ["list", "-a"].map(Into::into).into(),
            Self::Logs => ["logs", VM].map(Into::into).into(),
        };
        ["banger", "vm"].into_iter().map(Into::into).chain(words.into_iter().map(Into::into)).collect()
    }

    /// Returns the paths below the sandbox that the command may create or change, with everything in them. `is_dir`
    /// says whether a path below the home directory was a directory, and not a link to one, before the command.
    pub(crate) fn may_change(&self, is_dir: impl Fn(&str) -> bool) -> Vec<String> {
        match self {
            Self::CopyOut { source, target } => vec![match base_name(source) {
                Some(name) if is_dir(target) => format!("home/{target}/{name}"),
                _ => format!("home/{target}"),
            }],
            Self::Export(ExportTo::File) => vec![format!("home/{PATCH}")],
            Self::Pull | Self::Delete => {
                let git = format!("home/{REPOSITORY}/.git");
                let refs = format!("refs/banger/{VM}");
                let git = [format!("{git}/objects"), format!("{git}/{refs}"), format!("{git}/logs/{refs}")];
                git.into_iter().chain([RECORDS.to_owned()]).collect()
            }
            Self::Prepare | Self::Push => vec![RECORDS.to_owned()],
            // Its keys and configuration, at first use.
            Self::Ssh | Self::SshForward | Self::SshListen | Self::Sftp => {
                vec!["state/banger/ssh".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    /// Returns `output` without the carriage returns with which ssh ends its messages.
    pub(crate) fn without_own_returns(&self, output: &[u8]) -> Vec<u8> {
        let is_ssh = matches!(self, Self::Ssh | Self::SshForward | Self::SshListen | Self::Sftp);
        let is_end = |at: usize| output[at..].starts_with(b"\r\n");
        (0..output.len()).filter(|at| !(is_ssh && is_end(*at))).map(|at| output[at]).collect()
    }

    /// Returns where its standard output and its standard error come from.
    pub(crate) fn origins(&self) -> [Origin; 2] {
        match self {
            Self::Print { .. } => [Origin::Guest, Origin::Banger],
            Self::Exec { silent: false } | Self::SshForward | Self::Sftp => [Origin::Guest; 2],
            Self::Logs => [Origin::Console, Origin::Banger],
            _ => [Origin::Banger; 2],
        }
    }
}

/// Records of workspaces, in the state directory.
const RECORDS: &str = "state/banger/workspaces";

fn with_format(command: &str, json: bool) -> Vec<String> {
    let format = if json { "json" } else { "table" };
    [command, VM, "-o", format].map(Into::into).into()
}

/// Returns the name under which `cp -a` copies `source` into a directory; `None` if it copies only the content.
fn base_name(source: &str) -> Option<&str> {
    let last = source.rsplit('/').next().unwrap_or_default();
    if matches!(last, "." | "..") {
        return None;
    }
    source.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty())
}
