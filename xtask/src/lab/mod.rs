//! A throw-away host with real KVM, emulated: QEMU plays a machine with AMD's virtualisation, in which Debian's kernel
//! has a true `/dev/kvm` and Firecracker runs unmodified.

mod firecracker;
mod host;
mod input;
mod machine;
mod pulse;
mod terminal;

use std::{
    ffi::OsString,
    io::{self, Read, Seek, Write},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use machine::{End, Talk};
use serde_json::Value;

use crate::{
    command::{cargo, output, say},
    programs,
    project::Project,
    setup, template,
};

#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Ends the lab after this long, with exit status 124: 90s, 20m, 1h [default: 20m; none for a shell]
    #[arg(long, global = true, value_parser = parse_duration)]
    time_limit: Option<Duration>,
    /// The lab's memory in MiB
    #[arg(long, global = true, default_value_t = DEFAULT_MEMORY)]
    memory: u32,
    /// Builds nothing: brings what is in target/banger/ and target/template/, and no scenarios
    #[arg(long, global = true)]
    no_build: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// An interactive shell in the lab; scenarios are in /in/smoke
    Shell,
    /// All scenarios, as the suite runs them
    Scenarios,
}

const DEFAULT_MEMORY: u32 = 6144;

/// For a command that does not say.
const DEFAULT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// For one file of scenarios: each takes many seconds where two emulations are on top of each other.
const SCENARIOS_LIMIT: Duration = Duration::from_secs(30 * 60);

/// As `timeout` has it.
const TIMED_OUT: u8 = 124;

const FROZEN: &str = "the lab froze: QEMU emulates it no further";

/// Labs that may freeze over one file before that is taken for more than the emulator's bad luck.
const TRIES: usize = 3;

/// Labs at a time, as each has one processor.
const LABS: usize = 2;

/// The file that takes as long as many others together, and is begun with.
const LONGEST: &str = "killed";

/// Files of which not every scenario has to do with the VMM or with the host: the words in the names of those that
/// have.
const CHOSEN: [(&str, &[&str]); 8] = [
    ("catalogs", &[]),
    ("golden", &["a_file_of_the_users"]),
    ("kernels", &["in_a_folder", "cannot_boot"]),
    ("project", &["a_vm_has_what", "a_port_is_here"]),
    ("registry", &[]),
    ("ssh", &["as_by_any_ssh", "both_ways", "over_one_connection", "a_killed_ssh"]),
    ("trouble", &["a_guest_", "vmm_is_killed", "outlive", "ctrl_c"]),
    ("workspace", &["what_goes_in"]),
];

/// On Firecracker: with a short soak, a kill at each point of a VM's life once, and a few round trips.
const ON_FIRECRACKER: &str = "export BANGER_SOAK_VMS=12 BANGER_KILL_ONCE=1 BANGER_ROUND_TRIPS=3";

/// On QEMU, with KVM and the vsock of the lab's kernel, which it uses where banger-vsock-device is missing.
const ON_QEMU: &str =
    "export BANGER_VMM=qemu BANGER_PROGRAMS=/run/programs PATH=/usr/sbin:/usr/bin:/sbin:/bin
    mkdir $BANGER_PROGRAMS
    cp /in/programs/banger /in/programs/bangerd /in/programs/banger-agent $BANGER_PROGRAMS";

/// What of a file is run there.
const CHOSEN_ON_QEMU: (&str, &[&str]) = ("sessions", &["status_is_ours"]);

pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::run()?;
    let smoke = if arguments.no_build {
        Vec::new()
    } else {
        programs::build(project, None)?;
        programs::build_failing(project)?;
        template::prepare(project)?;
        scenario_programs(project)?
    };
    let terminal = match arguments.what {
        Some(What::Scenarios) => return scenarios(project).map(|()| ExitCode::SUCCESS),
        Some(What::Shell) => true,
        None => false,
    };
    let command = if terminal { vec!["bash".into(), "-l".into()] } else { arguments.command.clone() };
    let limit = arguments.time_limit.or((!terminal).then_some(DEFAULT_LIMIT));
    let lab = Lab::prepare(project, smoke)?;
    let talk = Talk { out: Box::new(io::stdout()), err: Box::new(io::stderr()), typed: terminal };
    Ok(match lab.boot(&command, arguments.memory, limit, talk)? {
        End::Status(status) => ExitCode::from(status),
        End::TimeUp => {
            say("the lab's time was up");
            ExitCode::from(TIMED_OUT)
        }
        End::Frozen => bail!(FROZEN),
    })
}

/// Runs the scenarios, each file in a lab of its own: one that freezes is all that is run again. The programs and the
/// template are there.
pub(crate) fn scenarios(project: &Project) -> Result<()> {
    let lab = Lab::prepare(project, scenario_programs(project)?)?;
    all_there(&lab.smoke)?;
    let mut files: Vec<_> = lab.smoke.iter().map(|(name, _)| name.as_str()).collect();
    files.sort_by_key(|name| (*name != LONGEST, *name));
    let mut runs: Vec<_> =
        files.into_iter().filter_map(|file| Some((ON_FIRECRACKER, chosen(file)?))).collect();
    let (file, words) = CHOSEN_ON_QEMU;
    runs.push((ON_QEMU, words_for(file, words)));

    let left = Mutex::new(runs.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut result = Ok(());
        while let Some((setting, chosen)) = next() {
            result = result.and(lab.run_scenarios(setting, &chosen));
        }
        result
    };
    thread::scope(|scope| {
        let labs: Vec<_> = (0..LABS).map(|_| scope.spawn(work)).collect();
        labs.into_iter()
            .map(|lab| lab.join().unwrap_or_else(|_| bail!("a lab's thread panicked")))
            .fold(Ok(()), Result::and)
    })
}

/// Refuses a chosen word that no scenario's name has in it: it would run nothing, and pass.
fn all_there(smoke: &[(String, PathBuf)]) -> Result<()> {
    for (file, words) in CHOSEN.into_iter().chain([CHOSEN_ON_QEMU]) {
        let (_, program) =
            smoke.iter().find(|(name, _)| name == file).with_context(|| format!("no file {file}"))?;
        for word in words {
            let listed = output(Command::new(program).args(["--list", word]))?;
            ensure!(
                String::from_utf8_lossy(&listed).contains(": test"),
                "no scenario of {file} has {word} in its name"
            );
        }
    }
    Ok(())
}

/// The words that run what a lab is for of the scenarios in `file`, if that is any.
fn chosen(file: &str) -> Option<String> {
    match CHOSEN.iter().find(|(name, _)| *name == file) {
        Some((_, [])) => None,
        Some((name, words)) => Some(words_for(name, words)),
        None => Some(file.to_owned()),
    }
}

fn words_for(file: &str, words: &[&str]) -> String {
    [&[file], words].concat().join(" ")
}

/// All that a lab is booted from.
struct Lab<'a> {
    project: &'a Project,
    host: host::Host,
    tools: PathBuf,
    smoke: Vec<(String, PathBuf)>,
}

impl<'a> Lab<'a> {
    fn prepare(project: &'a Project, smoke: Vec<(String, PathBuf)>) -> Result<Self> {
        let cache = cache(project);
        std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        Ok(Self { project, host: host::prepare(&cache)?, tools: firecracker::prepare(&cache)?, smoke })
    }

    /// Runs those scenarios of a file that are `chosen`, again when the lab freezes.
    fn run_scenarios(&self, setting: &str, chosen: &str) -> Result<()> {
        let script = format!("{setting}\n/in/smoke/{chosen} --test-threads=1");
        let command = ["sh", "-c", &script].map(OsString::from);
        for left in (0..TRIES).rev() {
            // What one lab says as it goes would be in the midst of what the other says.
            let mut said = tempfile::tempfile()?;
            let talk =
                Talk { out: Box::new(said.try_clone()?), err: Box::new(said.try_clone()?), typed: false };
            let start = Instant::now();
            let end = self.boot(&command, DEFAULT_MEMORY, Some(SCENARIOS_LIMIT), talk)?;
            let mut text = Vec::new();
            said.rewind()?;
            said.read_to_end(&mut text)?;
            let failed = String::from_utf8_lossy(&text).lines().any(|line| line.ends_with("FAILED"));
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            writeln!(out, "{chosen} took {} s in the lab", start.elapsed().as_secs())?;
            match end {
                End::Status(0) => return Ok(()),
                End::Status(_) => {
                    bail!("a scenario failed in the lab, look with: cargo xtask lab -- /in/smoke/{chosen}")
                }
                End::TimeUp => bail!("{chosen} took longer in the lab than {} s", SCENARIOS_LIMIT.as_secs()),
                // One that failed before must not be forgotten.
                End::Frozen if failed => bail!("a scenario of {chosen} failed in the lab, which then froze"),
                End::Frozen if left > 0 => say(format_args!("{FROZEN}; {chosen} again, in a fresh one")),
                End::Frozen => bail!("{FROZEN}, in each of {TRIES} labs with {chosen}"),
            }
        }
        bail!("no lab was booted")
    }

    fn boot(&self, command: &[OsString], memory: u32, limit: Option<Duration>, talk: Talk) -> Result<End> {
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(cache(self.project))?;
        let input = input::Input {
            programs: &self.project.programs(),
            failing: &self.project.failing_programs(),
            tools: &self.tools,
            smoke: &self.smoke,
            command,
            terminal: talk.typed,
        };
        input.make_disk(folder.path())?;
        input::make_work_disk(&template::folder(self.project), folder.path())?;
        say("booting the lab");
        machine::Machine { host: &self.host, folder, memory, limit, talk }.run()
    }
}

fn cache(project: &Project) -> PathBuf {
    project.target().join("lab")
}

/// The compiled files of scenarios.
fn scenario_programs(project: &Project) -> Result<Vec<(String, PathBuf)>> {
    let arguments = ["test", "-p", "banger-smoke", "--no-run", "--message-format=json-render-diagnostics"];
    let messages = String::from_utf8(output(&mut cargo(project, &arguments))?)?;
    let programs = test_programs(&messages)?;
    ensure!(!programs.is_empty(), "banger-smoke has no scenarios");
    Ok(programs)
}

/// The programs of `tests/` in cargo's messages, not those of unit tests, each with its target's name.
fn test_programs(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let target = &message["target"];
        if target["kind"][0] != "test" {
            continue;
        }
        if let (Some(name), Some(path)) = (target["name"].as_str(), message["executable"].as_str()) {
            programs.push((name.to_owned(), path.into()));
        }
    }
    Ok(programs)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 90s, 20m or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("20m"), Ok(Duration::from_secs(1200)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "20", "m", "-1s", "9é", "99999999999999999999h", "18446744073709551615h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_chosen_of_is_run_whole() {
        assert_eq!(chosen("kernels").as_deref(), Some("kernels in_a_folder cannot_boot"));
        assert_eq!(chosen("registry"), None);
        assert_eq!(chosen("sessions").as_deref(), Some("sessions"));
    }

    #[test]
    fn only_scenarios_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":"/t/lib-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"sessions"},"executable":"/t/sessions-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(test_programs(messages).unwrap(), [("sessions".into(), "/t/sessions-1".into())]);
    }
}
