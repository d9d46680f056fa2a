//! `bangerd`, the daemon that owns VMs. `banger` starts it when needed; users need not start it.
//!
//! It serves HTTP on a Unix socket ([`routes`]). It is also the program of small processes: the logger of a VM's
//! console, the two processes of a VM's network, and the KVM probe, which may hang without harm. `bangerd doctor` checks a host on which the daemon itself
//! may not be able to start.

mod daemon;
mod doctor;
mod fd_passing;
mod proxy;
mod routes;
mod serve;
mod socket;
mod splice;
mod startup;
mod upload;

use std::{path::PathBuf, process::ExitCode};

use banger_api::Egress;
use clap::{Parser, Subcommand};

/// The daemon that owns banger's VMs
///
/// `banger` starts it automatically. It keeps its state and its sockets under XDG_STATE_HOME, and runs until
/// `banger daemon stop`. VMs continue to run without it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a VM's console and its VMM's output, read from two pipes, to files of limited size
    #[command(hide = true)]
    Console {
        /// File for the console
        console: PathBuf,
        /// File for the VMM's output
        vmm: PathBuf,
    },
    /// Create a VM's network in the namespaces that pasta has created, and keep it until the VMM ends
    #[command(hide = true)]
    Namespace {
        /// The program nft
        nft: PathBuf,
    },
    /// Answer a guest's DNS requests
    #[command(hide = true)]
    Gateway {
        /// The VM's egress policy
        egress: Egress,
        /// Sockets that it inherits
        sockets: Vec<String>,
    },
    /// Test whether KVM can run a guest, and print the result as JSON
    #[command(hide = true)]
    KvmProbe,
    /// List the points at which `BANGER_FAIL_POINT` can kill this daemon
    #[cfg(feature = "fail-points")]
    #[command(hide = true)]
    FailPoints,
    /// Check what VMs need on this host, and print the checks as JSON, without starting a daemon
    #[command(hide = true)]
    Doctor,
}

fn main() -> ExitCode {
    match Args::parse().command {
        None => startup::run(),
        Some(Command::Console { console, vmm }) => match banger_engine::console_logger_main(&console, &vmm) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Some(Command::Namespace { nft }) => ended("network namespace", banger_engine::namespace_main(nft)),
        Some(Command::Gateway { egress, sockets }) => {
            ended("gateway", banger_engine::gateway_main(egress, &sockets))
        }
        Some(Command::KvmProbe) => banger_engine::kvm_probe_main(),
        #[cfg(feature = "fail-points")]
        Some(Command::FailPoints) => {
            let lines = banger_engine::fail_points().join("\n");
            match std::io::Write::write_all(&mut std::io::stdout(), format!("{lines}\n").as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Some(Command::Doctor) => doctor::run(),
    }
}

/// Returns the exit code of a VM's helper. An error is written to standard error, which is the VM's log.
fn ended(what: &str, result: std::io::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Nothing else can be done if the log is gone, too.
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("bangerd {what}: {error}\n").as_bytes());
    ExitCode::FAILURE
}
