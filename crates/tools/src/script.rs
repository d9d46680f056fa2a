//! The script that installs a plan's tools in a guest.

use super::plan::{Plan, Tool};

/// A POSIX shell script that installs a plan's tools in a guest.
///
/// Run it as root, as `sh -c SCRIPT tools ARGUMENT...`, with [`arguments`].
///
/// It installs with mise if the guest has it, without trusting the repository's files; otherwise Rust with rustup, if
/// present, and the rest in the distribution's newest version. It prints a log, whose last line says how many of the
/// tools were installed. Its status is 0 if all were. It has no timeout: the caller sets one. Tools installed by mise
/// are in `~/.local/share/mise/shims`.
///
/// The text is the same for every repository. A repository affects only the arguments, which are validated words. The
/// plan's environment is not for this script.
pub const SCRIPT: &str = include_str!("script.sh");

/// Returns the arguments of [`SCRIPT`] for `plan`, one per tool: `node@20`,
/// `rust@1.80,component=clippy,target=x86_64-unknown-none`.
pub fn arguments(plan: &Plan) -> Vec<String> {
    plan.tools.iter().map(argument).collect()
}

fn argument(tool: &Tool) -> String {
    let mut argument = format!("{}@{}", tool.name, tool.version);
    let components = tool.components.iter().map(|word| ("component", word));
    for (kind, word) in components.chain(tool.targets.iter().map(|word| ("target", word))) {
        argument.push_str(&format!(",{kind}={word}"));
    }
    argument
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::{
        env, fs,
        io::Write,
        os::unix::fs::symlink,
        path::{Path, PathBuf},
        process::{Command, Stdio},
    };

    use crate::note::Location;

    /// A program in place of every installer: it logs its arguments, and fails if one contains `fails`.
    const RECORDER: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/} $*\" >>\"${0%/*}/log\"\n\
        case \" $* \" in *fails*) exit 1 ;; esac\n";

    /// A directory with a guest's programs.
    struct Guest(tempfile::TempDir);

    impl Guest {
        fn with(programs: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            // Write it in another process: a program that is open for writing, here or in a child that another test
            // is about to start, cannot be run.
            let mut writer = Command::new("/bin/sh")
                .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
                .arg(dir.path().join("recorder"))
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            writer.stdin.take().unwrap().write_all(RECORDER.as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            programs.iter().for_each(|program| symlink("recorder", dir.path().join(program)).unwrap());
            Self(dir)
        }

        /// Returns the logged calls, the output, and whether the script succeeded.
        fn run(&self, shell: &[PathBuf], arguments: &[&str]) -> (Vec<String>, String, bool) {
            let log = self.0.path().join("log");
            let _ = fs::remove_file(&log);
            let output = Command::new(&shell[0])
                .args(&shell[1..])
                .args(["-c", SCRIPT, "tools"])
                .args(arguments)
                .env_clear()
                .env("PATH", self.0.path())
                .env("HOME", self.0.path())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(output.stderr.is_empty(), "{output:?}");
            let calls = fs::read_to_string(log).unwrap_or_default();
            let calls = calls.lines().map(ToOwned::to_owned).collect();
            (calls, String::from_utf8(output.stdout).unwrap(), output.status.success())
        }
    }

    fn find(program: &str) -> PathBuf {
        let path = env::var_os("PATH").unwrap();
        let executable = env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists());
        executable.unwrap_or_else(|| panic!("{program} is not installed: run cargo xtask setup"))
    }

    /// Returns this host's shell, and that of small guests.
    pub(crate) fn shells() -> [Vec<PathBuf>; 2] {
        [vec!["/bin/sh".into()], vec![find("busybox"), "sh".into()]]
    }

    #[track_caller]
    fn assert_calls(programs: &[&str], arguments: &[&str], calls: &[&str], last: &str) {
        let guest = Guest::with(programs);
        for shell in shells() {
            let (actual, printed, succeeded) = guest.run(&shell, arguments);
            assert_eq!(actual, calls, "{shell:?}: {printed}");
            assert_eq!(printed.lines().last(), Some(last), "{shell:?}: {printed}");
            let counts: Vec<_> = last.split(' ').filter_map(|word| word.parse::<usize>().ok()).collect();
            assert_eq!(succeeded, counts[0] == counts[1], "{shell:?}");
        }
    }

    #[test]
    fn shells_can_parse_the_script() {
        for shell in shells() {
            let status = Command::new(&shell[0]).args(&shell[1..]).args(["-n", "-c", SCRIPT]).status();
            assert!(status.unwrap().success(), "{shell:?}");
        }
    }

    #[test]
    fn mise_installs_all_tools_if_present() {
        assert_calls(
            &["mise", "rustup", "apt-get"],
            &["node@20", "rust@1.80,component=clippy,target=x86_64-unknown-none"],
            &[
                "mise use --global node@20",
                "mise use --global rust@1.80",
                "mise exec rust@1.80 -- rustup component add clippy",
                "mise exec rust@1.80 -- rustup target add x86_64-unknown-none",
            ],
            "tools: 2 of 2 installed",
        );
    }

    #[test]
    fn login_shells_find_tools_installed_by_mise() {
        let line = "PATH=\"$HOME/.local/share/mise/shims:$PATH\"\n";
        for (existing, profile) in [(&[][..], ".profile"), (&[".profile", ".bash_login"], ".bash_login")] {
            let guest = Guest::with(&["mise"]);
            let at = |name: &str| guest.0.path().join(name);
            existing.iter().for_each(|name| fs::write(at(name), "# mine\n").unwrap());
            for shell in shells() {
                guest.run(&shell, &["node@20", "go@1"]);
            }
            let own_content = if existing.is_empty() { "" } else { "# mine\n" };
            assert_eq!(fs::read_to_string(at(profile)).unwrap(), format!("{own_content}{line}"));
        }
    }

    #[test]
    fn rustup_installs_rust_if_present() {
        assert_calls(
            &["rustup", "apk"],
            &["rust@1.80,component=clippy,target=x86_64-unknown-none", "rust@latest"],
            &[
                "rustup toolchain install --no-self-update --profile minimal --component clippy --target \
                 x86_64-unknown-none 1.80",
                "rustup default 1.80",
                "rustup toolchain install --no-self-update --profile minimal stable",
                "rustup default stable",
            ],
            "tools: 2 of 2 installed",
        );
    }

    #[test]
    fn each_package_manager_installs_its_own_packages() {
        for (manager, calls) in [
            (
                "apt-get",
                &[
                    "apt-get -q update",
                    "apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install nodejs npm",
                    "apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install golang-go",
                ][..],
            ),
            ("apk", &["apk update", "apk add nodejs npm", "apk add go"]),
            ("dnf", &["dnf -y install nodejs npm", "dnf -y install golang"]),
            (
                "pacman",
                &[
                    "pacman -Sy --noconfirm",
                    "pacman -S --noconfirm --needed nodejs npm",
                    "pacman -S --noconfirm --needed go",
                ],
            ),
            (
                "zypper",
                &[
                    "zypper --non-interactive refresh",
                    "zypper --non-interactive install nodejs-default npm-default",
                    "zypper --non-interactive install go",
                ],
            ),
        ] {
            assert_calls(&[manager], &["node@20", "go@1.22"], calls, "tools: 2 of 2 installed");
        }
    }

    #[test]
    fn a_failed_tool_does_not_stop_the_others() {
        assert_calls(
            &["mise"],
            &["fails@1", "rust@1,component=fails,target=a", "go@1"],
            &[
                "mise use --global fails@1",
                "mise use --global rust@1",
                "mise exec rust@1 -- rustup component add fails",
                "mise use --global go@1",
            ],
            "tools: 1 of 3 installed",
        );
        assert_calls(
            &["dnf"],
            &["deno@1", "unknown@1", "jq@1"],
            &["dnf -y install jq"],
            "tools: 1 of 3 installed",
        );
        assert_calls(&[], &["node@20"], &[], "tools: 0 of 1 installed");
        assert_calls(&["mise"], &[], &[], "tools: 0 of 0 installed");
    }

    #[test]
    fn invalid_arguments_run_nothing() {
        let invalid =
            ["-g@1", "a@", "@1", "a", "a@-x", "a@1,target=-x", "a@$(id)", "a b@1", "a@1;id", "", "a@*"];
        assert_calls(&["mise"], &invalid, &[], "tools: 0 of 11 installed");
    }

    #[test]
    fn the_log_lists_commands_and_the_requested_version() {
        let guest = Guest::with(&["apk"]);
        let (_, printed, _) = guest.run(&shells()[0], &["rust@1.80,component=clippy,target=a", "x@1"]);
        insta::assert_snapshot!(printed);
    }

    #[test]
    fn arguments_contain_the_tools_of_a_plan() {
        let tool = |name: &str, components: &[&str], targets: &[&str]| Tool {
            name: name.parse().unwrap(),
            version: "1.80".parse().unwrap(),
            source: Location::file("f"),
            reason: String::new(),
            components: components.iter().map(|word| word.parse().unwrap()).collect(),
            targets: targets.iter().map(|word| word.parse().unwrap()).collect(),
        };
        let tools =
            vec![tool("rust", &["clippy", "rustfmt"], &["x86_64-unknown-none"]), tool("node", &[], &[])];
        let plan = Plan { tools, ..Plan::default() };
        assert_eq!(
            arguments(&plan),
            ["rust@1.80,component=clippy,component=rustfmt,target=x86_64-unknown-none", "node@1.80"]
        );
        assert_eq!(arguments(&super::super::plan(Path::new("/nowhere"), Default::default())), [""; 0]);
    }

    #[test]
    fn every_table_row_has_packages_for_each_manager() {
        let rows: Vec<_> = SCRIPT.lines().filter(|line| line.contains(") pick ")).collect();
        assert!(rows.len() > 20);
        for row in rows {
            let quoted: Vec<_> = row.split('"').collect();
            let words: String =
                quoted.iter().enumerate().map(|(n, part)| if n % 2 == 1 { "q" } else { part }).collect();
            assert_eq!(words.split_whitespace().count(), 8, "{row}");
        }
    }
}
