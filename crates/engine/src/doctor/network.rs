//! Checks the network of VMs, by creating one.

use std::{
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
};

use banger_api::{ApiError, Check, Egress, ErrorKind, HostPorts, Remedy};
use banger_net::{Missing, Pasta, namespace, rules};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

/// Maximum length of pasta's error, in bytes.
const MAX_ERROR: u64 = 4 << 10;

/// Name of the check.
const NAME: &str = "network";

/// Checks the programs and devices, and creates a network without a VM. Blocks for some 50 ms.
pub(super) fn check(bangerd: &Path) -> Check {
    let pasta = match banger_net::find() {
        Ok(pasta) => pasta,
        Err(missing) => return Check::warn(NAME, error(&missing)),
    };
    match create(&pasta, bangerd) {
        Ok(()) => {
            let (pasta, nft) = (pasta.program.display(), pasta.nft.display());
            Check::pass(NAME, format!("user: {pasta}, with rules of {nft}; a network was created just now"))
        }
        Err(why) => {
            let error = banger_net::restriction().map_or_else(
                || ApiError::new(ErrorKind::NotPermitted, String::new()).remedy(Remedy::ReadNetworkLog),
                |restriction| error(&restriction),
            );
            Check::warn(NAME, ApiError { message: format!("a network cannot be created: {why}"), ..error })
        }
    }
}

fn error(missing: &Missing) -> ApiError {
    let (kind, remedy) = match missing {
        Missing::Program { program, .. } => {
            (ErrorKind::MissingProgram, Remedy::InstallProgram { program: (*program).to_owned() })
        }
        Missing::NoTun => (ErrorKind::Io, Remedy::LoadTun),
        Missing::TunNotPermitted => (ErrorKind::NotPermitted, Remedy::OpenTun),
        Missing::Namespaces { limit, value } => (
            ErrorKind::NotPermitted,
            Remedy::AllowNamespaces { limit: (*limit).to_owned(), value: (*value).to_owned() },
        ),
        _ => (ErrorKind::Io, Remedy::ReadNetworkLog),
    };
    ApiError::new(kind, format!("VMs have no network: {missing}")).remedy(remedy)
}

/// Creates a network and deletes it. Returns the reason if that fails.
fn create(pasta: &Pasta, bangerd: &Path) -> Result<(), String> {
    let (started, mut child) = start(pasta, bangerd).map_err(|error| error.to_string())?;
    // pasta, if it still runs, and the program that it has started, which may wait for it.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What is no text is not shown.
        let _ = stderr.take(MAX_ERROR).read_to_string(&mut output);
    }
    let _ = child.wait();
    let Err(error) = started else { return Ok(()) };
    // pasta complains of a missing system log before it fails.
    let last = output.lines().rfind(|line| !line.starts_with("Failed to send") && !line.is_empty());
    Err(last.map_or_else(|| error.to_string(), |line| format!("{line}: {error}")))
}

/// Starts pasta, and a network in it. The network's descriptors are closed at once, and so it ends.
fn start(pasta: &Pasta, bangerd: &Path) -> io::Result<(io::Result<()>, Child)> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("network.sock");
    let mut command = pasta.command(bangerd, banger_net::listen(&socket)?);
    command.env_clear().current_dir("/").stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // Else this process would keep the socket open.
    drop(command);
    let no_ports = HostPorts::default();
    let rules = rules::rules(&Egress::Open, &no_ports, 1);
    let started =
        namespace::connect(&socket).and_then(|process| process.start(pidfd, rules, 1500, no_ports)).map(drop);
    Ok((started, child))
}
