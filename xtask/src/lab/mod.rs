//! Runs a throw-away host with real KVM. QEMU emulates a machine with AMD's virtualisation, on which Debian's kernel
//! has a real `/dev/kvm` and Firecracker runs unmodified.

mod boot;
mod chunks;
mod firecracker;
mod heartbeat;
mod input;
mod machine;
mod system;
mod terminal;

use std::{ffi::OsString, io, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use boot::{DEFAULT_MEMORY, FROZEN, Lab};
use machine::{CommandStdio, ExitReason};

pub(crate) use self::{boot::fetch, chunks::scenarios};
use crate::{command::say, programs, project::Project, scenarios as suite, setup, template};

#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subcommand: Option<LabCommand>,
    /// Stop the lab after this long, with exit status 124: 90s, 20m, 1h [default: 20m; none for a shell]
    #[arg(long, global = true, value_parser = parse_duration)]
    time_limit: Option<Duration>,
    /// Memory of the lab, in MiB
    #[arg(long, global = true, default_value_t = DEFAULT_MEMORY)]
    memory: u32,
    /// Build nothing: use target/banger/ and target/template/ as they are, and no scenarios
    #[arg(long, global = true)]
    no_build: bool,
    /// Command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Subcommand)]
enum LabCommand {
    /// Start an interactive shell in the lab; scenarios are in /in/smoke
    Shell,
    /// Run the scenarios that CI runs in the lab
    Scenarios {
        /// Also run those that test the same on each VMM, about twice as many
        #[arg(long)]
        more: bool,
    },
}

/// Time limit for a command without `--time-limit`.
const DEFAULT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Exit status of a timeout, as in timeout(1).
const TIMED_OUT: u8 = 124;

pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::run()?;
    let smoke = if arguments.no_build {
        None
    } else {
        programs::build(project, None)?;
        programs::build_with_fail_points(project)?;
        template::prepare(project)?;
        Some(suite::build(project)?)
    };
    let terminal = match arguments.subcommand {
        Some(LabCommand::Scenarios { more }) => return scenarios(project, more).map(|_| ExitCode::SUCCESS),
        Some(LabCommand::Shell) => true,
        None => false,
    };
    let command = if terminal { vec!["bash".into(), "-l".into()] } else { arguments.command.clone() };
    let limit = arguments.time_limit.or((!terminal).then_some(DEFAULT_LIMIT));
    let lab = Lab::prepare(project, smoke)?;
    let stdio =
        CommandStdio { out: Box::new(io::stdout()), err: Box::new(io::stderr()), interactive: terminal };
    Ok(match lab.boot(&command, arguments.memory, limit, stdio)? {
        ExitReason::Status(status) => ExitCode::from(status),
        ExitReason::TimedOut => {
            say("the lab timed out");
            ExitCode::from(TIMED_OUT)
        }
        ExitReason::Frozen => bail!(FROZEN),
    })
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
}
