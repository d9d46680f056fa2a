//! The guest of all VMs: the real agent's protocol code on a directory of the host.

use std::{collections::BTreeMap, os::unix::process::CommandExt, process::Command, rc::Rc, time::Duration};

use banger_agent::{BootRecord, Failure, Machine, Server};
use banger_proto::{Configure, Exec, FailureKind};
use serde_json::{Value, json};

use crate::phases::Phases;

/// A machine that changes nothing outside of the test's directory.
#[derive(Debug)]
pub(crate) struct Fake(Phases);

/// Starts the guest's agent.
pub(crate) fn start(phases: Phases) -> Rc<Server<Fake>> {
    Server::start(BootRecord::default(), Fake(phases))
}

impl Machine for Fake {
    async fn configure(&self, _: &Configure) -> Result<(), Failure> {
        Ok(())
    }

    /// Prepares a program of the host, which runs as the test's user. Only tests choose it.
    fn command(&self, request: &Exec, env: &BTreeMap<String, String>) -> Result<Command, Failure> {
        let Some((program, arguments)) = request.argv.split_first() else {
            return Err(Failure::new(FailureKind::Invalid, "this guest has no shell"));
        };
        let (program, arguments): (&str, &[String]) = if self.0.reach(&phase(request)) {
            ("sleep", &["infinity".to_owned()])
        } else if is_about_home(request) {
            // The user's files, which would go into the home directory of the test's user.
            ("tee", &["/dev/null".to_owned()])
        } else {
            (program, arguments)
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin").envs(env).envs(&request.env);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.current_dir(request.cwd.as_deref().unwrap_or("/")).process_group(0);
        Ok(command)
    }

    fn sync(&self) {}

    async fn power_off(&self, _: Option<Duration>) {}
}

/// Returns whether `request` changes files in the home directory of root.
fn is_about_home(request: &Exec) -> bool {
    let request = request.argv.get(2).and_then(|text| serde_json::from_str::<Value>(text).ok());
    request.is_some_and(|request| request["path"] == json!(b"/root"))
}

/// Returns the name of the phase that begins with this program.
fn phase(request: &Exec) -> String {
    match request.argv.as_slice() {
        [_, subcommand, request] if subcommand == "workspace" || subcommand == "copy" => {
            let request: Value = serde_json::from_str(request).unwrap_or_default();
            let action = request["action"].as_str().or(request["direction"].as_str());
            format!("guest {subcommand} {}", action.unwrap_or_default())
        }
        argv => format!("guest exec {}", argv.join(" ")),
    }
}
