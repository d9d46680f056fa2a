//! `banger-agent`: banger's program inside every guest.
//!
//! As `/init` of the boot initrd, it mounts the root file system (`boot`). It then serves the host over vsock
//! (`vsock`), either as PID 1 or, if the image has an init, as a child of that.
//!
//! It is a library so that tests can run its protocol code: a [`Server`] speaks the protocol over any stream, and a
//! [`Machine`] changes the machine. In a guest that is `power::Power`; the engine's tests use a `Machine`
//! that changes nothing on the host.

mod boot;
mod boot_record;
mod children;
mod configure;
mod connection;
mod console;
mod copy;
mod exec;
mod failure;
mod init;
mod inspect;
mod machine;
mod ports;
mod power;
mod programs;
mod server;
mod sftp;
mod sockets;
mod stream;
mod subcommand;
mod users;
mod vsock;
mod window;
mod workspace;

use std::{io::Write, process::ExitCode};

pub use crate::{
    boot_record::BootRecord, failure::Failure, machine::Machine, server::Server, stream::Duplex,
};

use crate::{console::fail, power::Power};

/// Runs the program that the arguments select.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        _ if std::process::id() == 1 => boot::boot(),
        ["serve", record] => match serde_json::from_str::<BootRecord>(record) {
            Ok(_) if !boot::wait_for_init() => ExitCode::FAILURE,
            Ok(record) => vsock::run(record, Power::Init),
            Err(error) => fail(&format!("cannot parse the boot data: {error}")),
        },
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
