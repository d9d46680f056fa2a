//! Installs the tools that a repository declares in its VM, then runs its setup commands.

use banger_api::{
    ApiError, Forward, Vm,
    config::{PROJECT_FILE, Project, Said},
};
use banger_client::{Client, Output};
use banger_proto::{Exec, ExitStatus};
use banger_tools::{
    Command, Own, Place, Plan, Port, Run, SCRIPT, SETUP, arguments, setup_arguments, setup_variables,
};

use crate::{
    session::{self, GuestCommand},
    ui::Ui,
};

/// The job's log in the guest.
const LOG: &str = "/var/log/banger-tools.log";

/// Runs the tools' script with the arguments in the first word, and without the variables that the second word names;
/// then runs the program in the remaining words. Arguments and names contain nothing that a shell would split or
/// expand.
const JOB: &str = r#"set -f; tools=$1; names=$2; shift 2; failed=0
[ -z "$tools" ] || ( [ -z "$names" ] || unset $names; exec sh -c "$0" tools $tools ) || failed=1
[ $# -eq 0 ] || "$@" || failed=$((failed + 2))
exit $failed"#;

/// Bits of the job's exit status.
const TOOLS_FAILED: u8 = 1;
const SETUP_FAILED: u8 = 2;

/// Runs the job in the background, detached, with the remaining words as its arguments.
const IN_BACKGROUND: &str = "sh -c \"$0\" \"$@\" </dev/null >/var/log/banger-tools.log 2>&1 &";

/// Runs the job in the foreground and shows its output.
const WAITED_FOR: &str = "exec sh -c \"$0\" \"$@\" </dev/null >&2";

/// Tools and setup commands to run in a VM.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a Plan,
    /// The repository's path in the guest.
    pub(crate) folder: &'a str,
    /// The user's variables, which override those of the plan.
    pub(crate) env: &'a [(String, String)],
    /// Whether to wait until the job is done.
    pub(crate) waited: bool,
}

/// Returns what the project file sets, in the form that a plan accepts.
pub(crate) fn own(project: Option<&Project>) -> Own {
    let Some(project) = project else { return Own::default() };
    let place = |line| Place { file: PROJECT_FILE, line: Some(line) };
    let ports = project.ports.as_ref().map(|ports| {
        let port = |said: &Said<Forward>| Port {
            host: said.value.host,
            guest: said.value.guest,
            source: place(said.line),
        };
        ports.iter().map(port).collect()
    });
    let setup = project.setup.as_ref().map(|lines| {
        let command = |said: &Said<String>| Command {
            source: place(said.line),
            key: "setup",
            name: None,
            run: Run::Shell(said.value.clone()),
        };
        lines.iter().map(command).collect()
    });
    let env = project.env.iter().map(|said| (place(said.line), said.value.0.clone(), said.value.1.clone()));
    Own { env: env.collect(), ports, setup }
}

/// Runs `job` in `vm`: in the background, or in the foreground if it is waited for. Failures are only warnings.
pub(crate) async fn carry_out(client: &Client, ui: &Ui, vm: &Vm, job: Job<'_>) {
    let Job { plan, waited, .. } = job;
    let mut names: Vec<_> = plan.tools.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
    match plan.setup.len() {
        0 => {}
        1 => names.push("one setup command".to_owned()),
        count => names.push(format!("{count} setup commands")),
    }
    if names.is_empty() {
        return;
    }
    let names = names.join(", ");
    let (argv, env, cwd) = (job.argv(), job.env(), Some("/".to_owned()));
    let command = GuestCommand { argv, env, cwd, no_stdin: true, ..GuestCommand::default() };
    let done = if waited {
        ui.note(format_args!("Installing {names} in {}", vm.name));
        session::run(client, vm.id.as_str(), command).await.map(|ended| ended.status)
    } else {
        ui.note(format_args!("Installing {names} in {} (log: {LOG})", vm.name));
        begun(client, vm, command).await
    };
    let bits = match done {
        Ok(ExitStatus::Code(bits @ 0..=3)) => bits,
        Ok(_) => return ui.warning("the installation of the repository's tools did not finish"),
        Err(error) => {
            return ui.warning(format_args!("cannot install the repository's tools: {error}"));
        }
    };
    if bits & TOOLS_FAILED != 0 {
        ui.warning("some of the repository's tools could not be installed");
    }
    if bits & SETUP_FAILED != 0 {
        ui.warning("the repository's setup failed");
    }
}

impl Job<'_> {
    /// Returns the command line for the guest.
    fn argv(&self) -> Vec<String> {
        let script = if self.waited { WAITED_FOR } else { IN_BACKGROUND };
        let mut argv = ["sh", "-c", script, JOB, SCRIPT].map(str::to_owned).to_vec();
        // Variables that the repository sets are only for its own commands.
        let own = self.own_env().into_iter().map(|(name, _)| name);
        let own: Vec<_> = own.filter(|name| self.env.iter().all(|(other, _)| other != name)).collect();
        argv.extend([arguments(self.plan).join(" "), own.join(" ")]);
        if !self.plan.setup.is_empty() {
            argv.extend(["sh", "-c", SETUP, "setup"].map(str::to_owned));
            argv.extend(setup_arguments(self.plan, self.folder));
        }
        argv
    }

    /// Returns the job's environment variables.
    fn env(&self) -> Vec<(String, String)> {
        [self.own_env().as_slice(), self.env].concat()
    }

    fn own_env(&self) -> Vec<(String, String)> {
        setup_variables(self.plan, self.folder)
    }
}

async fn begun(client: &Client, vm: &Vm, command: GuestCommand) -> Result<ExitStatus, ApiError> {
    let GuestCommand { argv, env, cwd, .. } = command;
    let exec = Exec { argv, env: env.into_iter().collect(), cwd, ..Exec::default() };
    let (_input, mut output) = banger_client::exec(client, vm.id.as_str(), exec).await?;
    loop {
        if let Output::Exited(status) = output.next().await? {
            return Ok(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::{
        Config, HostSize,
        config::{Layer, Owner},
    };
    use std::{fs, path::Path, process};

    fn project(text: &str) -> Project {
        let layer = Layer::of_text(Owner::Project, Path::new(PROJECT_FILE), text).unwrap();
        Config::new([layer], HostSize::default()).project().unwrap().clone()
    }

    /// Runs the job for that file; returns its output and exit status.
    fn run(folder: &Path, text: &str) -> (String, Option<i32>) {
        let plan = banger_tools::plan(folder, own(Some(&project(text))));
        let env = [("B".to_owned(), "b of mine".to_owned())];
        let job = Job { plan: &plan, folder: folder.to_str().unwrap(), env: &env, waited: true };
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
    fn the_projects_commands_have_its_variables_and_the_users() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[workspace]\nenv = { A = \"it's $(id)\", B = 'b' }\nsetup = ['echo \"$A, $B\"']\n";
        let (printed, status) = run(folder.path(), text);
        assert!(printed.contains("\nit's $(id), b of mine\nsetup: all commands succeeded\n"), "{printed}");
        assert_eq!(status, Some(0));
        let (printed, status) = run(folder.path(), "[workspace]\nsetup = ['exit 3', 'echo after']\n");
        assert!(printed.contains("setup: exit 3 failed with status 3"), "{printed}");
        assert_eq!(status, Some(SETUP_FAILED.into()));
    }

    #[test]
    fn tools_have_the_users_variables_and_not_the_repositorys() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".tool-versions"), "node 1\n").unwrap();
        let text = "[workspace]\nenv = { A = 'a', B = 'b' }\nsetup = ['echo $A $B']\n";
        let plan = banger_tools::plan(folder.path(), own(Some(&project(text))));
        let env = [("B".to_owned(), "mine".to_owned())];
        let job = Job { plan: &plan, folder: folder.path().to_str().unwrap(), env: &env, waited: true };
        // Replaces the tools' script by one that prints what it receives.
        let mut argv = job.argv();
        argv[4] = "echo \"tools: $1 <${A-}> <$B> <${containerWorkspaceFolder-}>\"".to_owned();
        let mut command = process::Command::new("/bin/sh");
        let output = command.args(&argv[1..]).env_clear().envs(job.env()).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.starts_with("tools: node@1 <> <mine> <>\n"), "{printed}");
        assert!(printed.contains("\na mine\n") && output.status.success(), "{printed}");
    }

    #[test]
    fn a_tool_that_fails_does_not_keep_commands_from_being_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".tool-versions"), "no-such-tool 1\n").unwrap();
        let (printed, status) = run(folder.path(), "[workspace]\nsetup = ['echo ran']\n");
        assert!(printed.contains("tools: 0 of 1 installed\nsetup: running echo ran\nran\n"), "{printed}");
        assert_eq!(status, Some(TOOLS_FAILED.into()));
        let (printed, status) = run(folder.path(), "");
        assert!(!printed.contains("setup"), "{printed}");
        assert_eq!(status, Some(TOOLS_FAILED.into()));
    }
}
