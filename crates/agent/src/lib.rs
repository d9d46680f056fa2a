//! `banger-agent`: banger's program inside every guest.
//!
//! As `/init` of the boot initrd, it mounts the root file system (`boot`). It then serves the host over vsock
//! (`vsock`), in a process that PID 1 or, if the image has an init, a child of that restarts (`supervisor`).
//!
//! It is a library so that tests can run its protocol code: a [`Server`] speaks the protocol over any stream, and a
//! [`Machine`] changes the machine. In a guest that is `power::Power`; the engine's tests use a `Machine`
//! that changes nothing on the host.

mod accept;
mod boot;
mod boot_record;
mod callers;
mod children;
mod configure;
mod connection;
mod connections;
mod console;
mod copy;
mod exec;
mod failure;
mod init;
mod inspect;
mod machine;
mod oom;
mod ports;
mod power;
mod programs;
mod saved;
mod server;
mod sftp;
mod sockets;
mod stream;
mod subcommand;
mod supervisor;
#[cfg(test)]
mod testing;
mod users;
mod vsock;
mod window;
mod workspace;

use std::{io::Write, process::ExitCode};

pub use crate::{
    boot_record::BootRecord, failure::Failure, machine::Machine, server::Server, stream::Duplex,
};

use crate::console::fail;

/// Runs `work` with the boot record in an argument.
fn with(record: &str, work: impl FnOnce(BootRecord) -> ExitCode) -> ExitCode {
    match serde_json::from_str(record) {
        Ok(record) => work(record),
        Err(error) => fail(&format!("cannot parse the boot data: {error}")),
    }
}

/// Runs the program that the arguments select.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        _ if std::process::id() == 1 => boot::boot(),
        [supervisor::SUPERVISE, record] if boot::wait_for_init() => {
            with(record, |record| supervisor::run(&record))
        }
        [supervisor::SUPERVISE, _] => ExitCode::FAILURE,
        [supervisor::SERVE, record] => with(record, vsock::run),
        [copy::COMMAND, request] => subcommand::run(copy::run, request),
        [workspace::COMMAND, request] => subcommand::run(workspace::run, request),
        [sftp::COMMAND] => sftp::run(),
        ["--version"] => {
            // A write error cannot be reported.
            let _ = writeln!(std::io::stdout(), "banger-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => fail("this is the program that banger runs inside its VMs; it does nothing elsewhere"),
    }
}
