//! `banger-agent`: banger's program inside every guest.
//!
//! As `/init` of the boot initrd, it mounts the root file system (`boot`). It then serves the host over vsock
//! (`vsock`), either as PID 1 or, if the image has an init, as a child of that.
//!
//! It is a library so that tests can run its protocol code: a [`Server`] speaks the protocol over any stream, and a
//! [`Machine`] changes the machine. In a guest that is `power::Power`; the engine's tests use one that changes
//! nothing on the host.

mod boot;
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
mod marks;
mod own;
mod ports;
mod power;
mod programs;
mod server;
mod sftp;
mod sockets;
mod stream;
mod users;
mod vsock;
mod window;
mod workspace;

use std::{io::Write, process::ExitCode};

pub use crate::{failure::Failure, machine::Machine, marks::Booted, server::Server, stream::Duplex};

use crate::{console::fail, power::Power};

/// Runs the program that the arguments select.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        _ if std::process::id() == 1 => boot::boot(),
        ["serve", booted] => match serde_json::from_str::<Booted>(booted) {
            Ok(_) if !boot::init_runs() => ExitCode::FAILURE,
            Ok(booted) => vsock::run(booted, Power::AskInit),
            Err(error) => fail(&format!("cannot parse the boot data: {error}")),
        },
        [copy::COMMAND, request] => own::run(copy::run, request),
        [workspace::COMMAND, request] => own::run(workspace::run, request),
        [sftp::COMMAND] => sftp::run(),
        ["--version"] => {
            // A write error cannot be reported.
            let _ = writeln!(std::io::stdout(), "banger-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => fail("this is the program that banger runs inside its VMs; it does nothing elsewhere"),
    }
}
