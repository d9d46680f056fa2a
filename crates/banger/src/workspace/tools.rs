//! Installs the tools that a repository declares in its VM, then runs its setup commands.

use banger_api::{
    PortProtocol, Publish, Vm,
    config::{Located, PROJECT_FILE, Project},
};
use banger_client::Client;
use banger_proto::ExitStatus;
use banger_tools::{
    Command, Location, Plan, Port, ProjectSettings, Run, SCRIPT, SETUP, arguments, setup_arguments,
    setup_variables,
};

use crate::{
    error::CommandError,
    session::{self, GuestCommand},
    ui::{Table, Ui},
};

/// The job's log in the guest.
const LOG_PATH: &str = "/var/log/banger-tools.log";

/// Runs the tools' script with the arguments in the first word, and without the variables that the second word names;
/// then runs the program in the remaining words. Arguments and names contain nothing that a shell would split or
/// expand.
const JOB_SCRIPT: &str = r#"set -f; tools=$1; names=$2; shift 2; failed=0
[ -z "$tools" ] || ( [ -z "$names" ] || unset $names; exec sh -c "$0" tools $tools ) || failed=1
[ $# -eq 0 ] || "$@" || failed=$((failed + 2))
exit $failed"#;

/// Bits of the job's exit status.
const TOOLS_FAILED: u8 = 1;
const SETUP_FAILED: u8 = 2;

/// Runs the job in the background, detached, with the remaining words as its arguments.
const IN_BACKGROUND: &str = "sh -c \"$0\" \"$@\" </dev/null >/var/log/banger-tools.log 2>&1 &";

/// Runs the job in the foreground and shows its output.
const IN_FOREGROUND: &str = "exec sh -c \"$0\" \"$@\" </dev/null >&2";

/// Tools and setup commands to run in a VM.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a Plan,
    /// The repository's path in the guest.
    pub(crate) dir: &'a str,
    /// The user's variables, which override those of the plan.
    pub(crate) env: &'a [(String, String)],
    /// Whether to wait until the job is done.
    pub(crate) wait: bool,
}

/// Returns a table of ports that a repository requests.
pub(crate) fn port_table(ports: &[Port]) -> Table {
    let mut table = Table::new(["PORT", "HOST PORT", "SOURCE"]);
    for port in ports {
        let protocol = if port.udp { "/udp" } else { "" };
        table.row([format!("{}{protocol}", port.guest), port.host.to_string(), port.source.to_string()]);
    }
    table
}

/// Returns a port that a repository requests, at the host's loopback.
pub(crate) fn publish(port: &Port) -> Publish {
    let protocol = if port.udp { PortProtocol::Udp } else { PortProtocol::Tcp };
    Publish { address: None, host: port.host, guest: port.guest, protocol }
}

/// Returns what the project file sets, in the form that a plan accepts.
pub(crate) fn project_settings(project: Option<&Project>) -> ProjectSettings {
    let Some(project) = project else { return ProjectSettings::default() };
    let source_at = |line| Location { file: PROJECT_FILE, line: Some(line) };
    let ports = project.ports.as_ref().map(|ports| {
        let port = |entry: &Located<Publish>| Port {
            host: entry.value.host,
            guest: entry.value.guest,
            udp: entry.value.protocol == PortProtocol::Udp,
            source: source_at(entry.line),
        };
        ports.iter().map(port).collect()
    });
    let setup = project.setup.as_ref().map(|lines| {
        let command = |entry: &Located<String>| Command {
            source: source_at(entry.line),
            key: "setup",
            name: None,
            run: Run::Shell(entry.value.clone()),
        };
        lines.iter().map(command).collect()
    });
    let env =
        project.env.iter().map(|entry| (source_at(entry.line), entry.value.0.clone(), entry.value.1.clone()));
    ProjectSettings { env: env.collect(), ports, setup }
}

/// Runs `job` in `vm`: in the background, or in the foreground if it is waited for. Failures are only warnings. A signal
/// ends the job, and is an error: the user does not want what follows either.
pub(crate) async fn run_job(client: &Client, ui: &Ui, vm: &Vm, job: Job<'_>) -> Result<(), CommandError> {
    let Job { plan, wait, .. } = job;
    let mut names: Vec<_> = plan.tools.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
    match plan.setup.len() {
        0 => {}
        1 => names.push("one setup command".to_owned()),
        count => names.push(format!("{count} setup commands")),
    }
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    let (argv, env, cwd) = (job.argv(), job.env(), Some("/".to_owned()));
    let command = GuestCommand { argv, env, cwd, ..GuestCommand::default() };
    let log = if wait { String::new() } else { format!(" (log: {LOG_PATH})") };
    ui.note(format_args!("Installing {names} in {}{log}", vm.name));
    let bits = match session::run_without_input(client, vm.id.as_str(), command).await {
        Ok(ExitStatus::Code(bits @ 0..=3)) => bits,
        Ok(_) => {
            ui.warning("the installation of the repository's tools did not finish");
            return Ok(());
        }
        Err(CommandError { error: Some(error), .. }) => {
            ui.warning(format_args!("cannot install the repository's tools: {error}"));
            return Ok(());
        }
        Err(interrupted) => {
            ui.note("The installation was interrupted");
            return Err(interrupted);
        }
    };
    if bits & TOOLS_FAILED != 0 {
        ui.warning("some of the repository's tools could not be installed");
    }
    if bits & SETUP_FAILED != 0 {
        ui.warning("the repository's setup failed");
    }
    Ok(())
}

impl Job<'_> {
    /// Returns the command line for the guest.
    fn argv(&self) -> Vec<String> {
        let script = if self.wait { IN_FOREGROUND } else { IN_BACKGROUND };
        let mut argv = ["sh", "-c", script, JOB_SCRIPT, SCRIPT].map(str::to_owned).to_vec();
        // Variables that the repository sets are only for its own commands.
        let unset = self.setup_env().into_iter().map(|(name, _)| name);
        let unset: Vec<_> = unset.filter(|name| self.env.iter().all(|(other, _)| other != name)).collect();
        argv.extend([arguments(self.plan).join(" "), unset.join(" ")]);
        if !self.plan.setup.is_empty() {
            argv.extend(["sh", "-c", SETUP, "setup"].map(str::to_owned));
            argv.extend(setup_arguments(self.plan, self.dir));
        }
        argv
    }

    /// Returns the job's environment variables.
    fn env(&self) -> Vec<(String, String)> {
        [self.setup_env().as_slice(), self.env].concat()
    }

    fn setup_env(&self) -> Vec<(String, String)> {
        setup_variables(self.plan, self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::{
        Config, HostResources,
        config::{Layer, Owner},
    };
    use std::{fs, path::Path, process};

    fn project(text: &str) -> Project {
        let layer = Layer::from_text(Owner::Project, Path::new(PROJECT_FILE), text).unwrap();
        Config::new([layer], HostResources::default()).project().unwrap().clone()
    }

    /// Runs the job for that file; returns its output and exit status.
    fn run(dir: &Path, text: &str) -> (String, Option<i32>) {
        let plan = banger_tools::plan(dir, project_settings(Some(&project(text))));
        let env = [("B".to_owned(), "user value".to_owned())];
        let job = Job { plan: &plan, dir: dir.to_str().unwrap(), env: &env, wait: true };
        let output = process::Command::new("/bin/sh")
            .args(&job.argv()[1..])
            .env_clear()
            .envs(job.env())
            .env("PATH", "/nowhere:/usr/bin:/bin")
            .output()
            .unwrap();
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    }

    #[test]
    fn setup_commands_get_the_projects_and_the_users_variables() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[workspace]\nenv = { A = \"it's $(id)\", B = 'b' }\nsetup = ['echo \"$A, $B\"']\n";
        let (printed, status) = run(dir.path(), text);
        assert!(printed.contains("\nit's $(id), user value\nsetup: all commands succeeded\n"), "{printed}");
        assert_eq!(status, Some(0));
        let (printed, status) = run(dir.path(), "[workspace]\nsetup = ['exit 3', 'echo after']\n");
        assert!(printed.contains("setup: exit 3 failed with status 3"), "{printed}");
        assert_eq!(status, Some(SETUP_FAILED.into()));
    }

    #[test]
    fn tools_get_the_users_variables_but_not_the_projects() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tool-versions"), "node 1\n").unwrap();
        let text = "[workspace]\nenv = { A = 'a', B = 'b' }\nsetup = ['echo $A $B']\n";
        let plan = banger_tools::plan(dir.path(), project_settings(Some(&project(text))));
        let env = [("B".to_owned(), "user".to_owned())];
        let job = Job { plan: &plan, dir: dir.path().to_str().unwrap(), env: &env, wait: true };
        // Replaces the tools' script by a script that prints its input.
        let mut argv = job.argv();
        argv[4] = "echo \"tools: $1 <${A-}> <$B> <${containerWorkspaceFolder-}>\"".to_owned();
        let mut command = process::Command::new("/bin/sh");
        let output = command.args(&argv[1..]).env_clear().envs(job.env()).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.starts_with("tools: node@1 <> <user> <>\n"), "{printed}");
        assert!(printed.contains("\na user\n") && output.status.success(), "{printed}");
    }

    #[test]
    fn setup_commands_run_even_if_a_tool_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tool-versions"), "no-such-tool 1\n").unwrap();
        let (printed, status) = run(dir.path(), "[workspace]\nsetup = ['echo ran']\n");
        assert!(printed.contains("tools: 0 of 1 installed\nsetup: running echo ran\nran\n"), "{printed}");
        assert_eq!(status, Some(TOOLS_FAILED.into()));
        let (printed, status) = run(dir.path(), "");
        assert!(!printed.contains("setup"), "{printed}");
        assert_eq!(status, Some(TOOLS_FAILED.into()));
    }
}
