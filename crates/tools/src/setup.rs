//! The script that runs a repository's own commands in a guest.

use crate::plan::{Plan, Run};

/// A POSIX shell script that runs commands in a guest: `sh -c SETUP setup ARGUMENT...`, with [`setup_arguments`].
///
/// It runs them in order, until one fails. It prints a log; its status is 0 if all succeeded. The text is the same
/// for every repository: the commands are arguments, and never part of the text.
pub const SETUP: &str = include_str!("setup.sh");

/// Returns the arguments of [`SETUP`] for the commands of `plan`, in the directory `dir`.
pub fn setup_arguments(plan: &Plan, dir: &str) -> Vec<String> {
    let mut arguments = vec![dir.to_owned()];
    for command in &plan.setup {
        let words = match &command.run {
            Run::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
            Run::Program(words) => words.clone(),
        };
        arguments.extend([words.len().to_string(), command.label()]);
        arguments.extend(words);
    }
    arguments
}

/// Returns the environment variables for the commands of `plan`, whose repository is at `dir` in the guest.
///
/// They are the plan's own, and those that a dev container's commands may use.
pub fn setup_variables(plan: &Plan, dir: &str) -> Vec<(String, String)> {
    let basename = dir.rsplit('/').next().unwrap_or_default();
    let host_dir_name = plan.dir_name.as_deref().unwrap_or(basename);
    let workspace_variables = [
        ("containerWorkspaceFolder", dir),
        ("containerWorkspaceFolderBasename", basename),
        ("localWorkspaceFolderBasename", host_dir_name),
    ];
    let own = plan.env.iter().map(|variable| (variable.name.as_str(), variable.value.as_str()));
    workspace_variables
        .into_iter()
        .chain(own)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{note::Location, plan::Command, script::tests::shells};
    use proptest::prelude::*;
    use std::{fs, path::Path, process};

    fn plan(commands: Vec<Run>) -> Plan {
        let source = Location { file: "banger.toml", line: Some(1) };
        let command = |run| Command { source, key: "setup", name: None, run };
        Plan { setup: commands.into_iter().map(command).collect(), ..Plan::default() }
    }

    fn shell(text: &str) -> Run {
        Run::Shell(text.to_owned())
    }

    fn program(words: &[&str]) -> Run {
        Run::Program(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Returns the output in `dir` under `shell`, and whether the script succeeded.
    fn run(shell: &[std::path::PathBuf], dir: &Path, plan: &Plan) -> (String, bool) {
        let output = process::Command::new(&shell[0])
            .args(&shell[1..])
            .args(["-c", SETUP, "setup"])
            .args(setup_arguments(plan, dir.to_str().unwrap()))
            .envs(setup_variables(plan, "/root/repo"))
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    #[test]
    fn commands_run_in_order_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let words: Vec<_> = (0..12).map(|number| number.to_string()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let plan = plan(vec![
            shell("cat; echo one >a; cd /"),
            program(&["cp", "a", "a b $(id) '\""]),
            shell("echo \"$containerWorkspaceFolder ${localWorkspaceFolderBasename}\""),
            program(&[&["printf", "%s,"], &words[..]].concat()),
            shell("\nexit 0\n"),
        ]);
        for shell in shells() {
            let (printed, succeeded) = run(&shell, dir.path(), &plan);
            assert_eq!(
                printed,
                "setup: running cat; echo one >a; cd /\n\
                 setup: running cp a a b $(id) '\"\n\
                 setup: running echo \"$containerWorkspaceFolder ${localWorkspaceFolderBasename}\"\n/root/repo repo\n\
                 setup: running printf %s, 0 1 2 3 4 5 6 7 8 9 10 11\n0,1,2,3,4,5,6,7,8,9,10,11,\
                 setup: running exit 0\nsetup: all commands succeeded\n"
            );
            assert!(succeeded);
            assert_eq!(fs::read_to_string(dir.path().join("a b $(id) '\"")).unwrap(), "one\n");
        }
    }

    #[test]
    fn a_failed_command_stops_the_commands_after_it() {
        let dir = tempfile::tempdir().unwrap();
        for (command, message) in [
            (shell("exit 3"), "setup: exit 3 failed with status 3; the commands after it are skipped\n"),
            (program(&["false"]), "setup: false failed with status 1; the commands after it are skipped\n"),
            (shell("kill -9 $$"), "setup: kill -9 $$ failed with status 137; the"),
            (program(&["/no/program", "x"]), "setup: /no/program x failed with status 127; the"),
        ] {
            let plan = plan(vec![shell("echo before"), command, shell("echo after")]);
            for shell in shells() {
                let (printed, succeeded) = run(&shell, dir.path(), &plan);
                assert!(!succeeded && printed.contains("before\n") && printed.contains(message), "{printed}");
                assert!(!printed.contains("echo after"), "{printed}");
            }
        }
        for shell in shells() {
            let (printed, succeeded) = run(&shell, &dir.path().join("none"), &plan(vec![]));
            assert!(!succeeded && printed.contains("setup: there is no directory"), "{printed}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn program_arguments_are_passed_unchanged(words in prop::collection::vec("[^\0]{0,12}", 0..14)) {
            let dir = tempfile::tempdir().unwrap();
            let script = "printf '%s\\n' \"$#\" \"$@\" >out";
            let fixed = ["/bin/sh", "-c", script, "x"].map(str::to_owned).to_vec();
            let plan = plan(vec![Run::Program([fixed, words.clone()].concat())]);
            for shell in shells() {
                prop_assert!(run(&shell, dir.path(), &plan).1);
                let expected = format!("{}\n{}\n", words.len(), words.join("\n"));
                let expected = if words.is_empty() { "0\n".to_owned() } else { expected };
                prop_assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), expected);
            }
        }
    }
}
