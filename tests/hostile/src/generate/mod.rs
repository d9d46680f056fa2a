//! Makes a case of any bytes: mostly conversations that follow the protocol for long enough to reach deep, each with a
//! few lies.

mod draft;
mod files;
mod replies;
mod session;
mod single;
mod workspaces;

use crate::{Case, Command, Conversation, ExportTo, Step, Workspace, choices::Choices, texts::text};

/// Sources of copies.
const SOURCES: [&str; 9] =
    ["report.txt", "notes", "dir", "/etc/a", "dir/.", ".", "deep/er/report.txt", "dir/", ".."];

/// Targets of copies, below the home directory.
const TARGETS: [&str; 7] = ["in", "new", ".", "existing.txt", "in/notes", "in/dir", "none/new"];

/// Whether cases may start programs, such as git and ssh, which take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// A few do.
    Some,
    /// None does.
    None,
}

impl Case {
    /// Makes a case of `bytes`, with a guest that has `workspace`.
    #[must_use]
    pub fn generate(bytes: &[u8], workspace: &Workspace, programs: Programs) -> Self {
        let mut choices = Choices::new(bytes);
        let count = if choices.chance(15) { 2 + choices.below(2) } else { 1 };
        let steps = (0..count).map(|_| step(&mut choices, workspace, programs)).collect();
        Self { steps }
    }
}

impl Workspace {
    /// Returns what an honest guest with this workspace does while `command` runs. Since the workspace was sent, its
    /// user has created a branch.
    #[must_use]
    pub fn honest(&self, command: &Command) -> Vec<Conversation> {
        conversations(&mut Choices::new(&[]), self, command)
    }
}

fn step(choices: &mut Choices<'_>, workspace: &Workspace, programs: Programs) -> Step {
    let command = command(choices, programs);
    let conversations = conversations(choices, workspace, &command);
    let last_error = choices.chance(25).then(|| text(choices));
    Step { command, conversations, last_error }
}

fn conversations(choices: &mut Choices<'_>, workspace: &Workspace, command: &Command) -> Vec<Conversation> {
    match command {
        Command::CopyOut { source, .. } | Command::Print { source } => {
            vec![files::copy(choices, source)]
        }
        Command::CopyIn => vec![files::upload(choices)],
        Command::Exec { silent } => vec![session::program(choices, *silent)],
        Command::Ssh | Command::Sftp => vec![session::program(choices, true)],
        // The first connection is opened early, for a session.
        Command::SshForward => vec![Conversation::default(), session::socket(choices)],
        Command::SshListen => session::listener(choices),
        Command::Export(_) => workspaces::export(choices, workspace),
        Command::Pull | Command::Delete => workspaces::pull(choices, workspace),
        Command::Prepare | Command::Push => workspaces::update(choices, workspace, *command == Command::Push),
        Command::Ports { .. } | Command::Open => vec![single::ports(choices)],
        Command::Ping => vec![single::pong(choices)],
        Command::Health { .. } => vec![single::pong(choices), single::inspection(choices)],
        Command::Show { .. } | Command::List => Vec::new(),
        Command::Logs => vec![session::log(choices)],
    }
}

fn command(choices: &mut Choices<'_>, programs: Programs) -> Command {
    let (source, target) = (*choices.pick(&SOURCES), *choices.pick(&TARGETS));
    let json = choices.chance(40);
    let mut commands = vec![
        (440, Command::CopyOut { source, target }),
        (40, Command::Print { source }),
        (50, Command::CopyIn),
        (80, Command::Exec { silent: true }),
        (40, Command::Exec { silent: false }),
        (90, Command::Ports { json }),
        (20, Command::Open),
        (40, Command::Ping),
        (60, Command::Health { json }),
        (30, Command::Show { json }),
        (20, Command::List),
        (40, Command::Logs),
    ];
    if programs == Programs::Some {
        commands.extend([
            (6, Command::Export(ExportTo::Terminal)),
            (7, Command::Export(ExportTo::Table)),
            (4, Command::Export(ExportTo::Json)),
            (3, Command::Export(ExportTo::File)),
            (6, Command::Pull),
            (6, Command::Delete),
            (3, Command::Prepare),
            (1, Command::Push),
            (3, Command::Ssh),
            (1, Command::SshForward),
            (1, Command::SshListen),
            (1, Command::Sftp),
        ]);
    }
    choices.weighted(&commands)
}
