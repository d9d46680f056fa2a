//! `bangerd`, the daemon that owns VMs. `banger` starts it when it is needed; nobody need call it by hand.
//!
//! It serves HTTP on a Unix socket ([`routes`]), and is also the program of two small processes of its own: the keeper
//! of a VM's console, and the KVM probe, which must be able to hang without harm. `bangerd doctor` looks at the host where
//! the daemon itself may not be able to start.

mod daemon;
mod doctor;
mod passed;
mod routes;
mod serve;
mod splice;
mod startup;
mod upload;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// The daemon that owns banger's VMs.
///
/// `banger` starts it by itself. It keeps its state under XDG_STATE_HOME, its sockets under XDG_RUNTIME_DIR, and runs
/// until `banger daemon stop`; VMs run on without it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a VM's console and its VMM's words, which come through two pipes, in files that do not grow without bound.
    #[command(hide = true)]
    Console {
        /// The console's file.
        console: PathBuf,
        /// The file of the VMM's words.
        vmm: PathBuf,
    },
    /// Find out whether KVM can run a guest, and print it as JSON.
    #[command(hide = true)]
    KvmProbe,
    /// List the points at which this daemon can be killed by `BANGER_FAIL_POINT`.
    #[cfg(feature = "fail-points")]
    #[command(hide = true)]
    FailPoints,
    /// Look at what VMs need of this host, and print it as JSON; no daemon is started.
    #[command(hide = true)]
    Doctor,
}

fn main() -> ExitCode {
    match Args::parse().command {
        None => startup::run(),
        Some(Command::Console { console, vmm }) => match banger_engine::keeper_main(&console, &vmm) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
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
