//! `banger-vsock-device`: the vsock of one QEMU guest. `bangerd` starts and ends it.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use banger_vsock_device::{Config, Device, Error};
use clap::Parser;

/// Connect a QEMU guest's vsock to Unix sockets of the host
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Context id of the guest
    #[arg(long, value_name = "CID", value_parser = clap::value_parser!(u32).range(3..))]
    guest_cid: u32,
    /// Socket for QEMU to connect to
    #[arg(long, value_name = "PATH")]
    vhost_socket: PathBuf,
    /// Socket for host programs to connect to; the guest's connections to port N arrive at PATH_N
    #[arg(long, value_name = "PATH")]
    host_socket: PathBuf,
}

fn main() -> ExitCode {
    let Args { guest_cid, vhost_socket, host_socket } = Args::parse();
    match run(Config { guest_cid, vhost_socket, host_socket }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr must not hide the exit code.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves one QEMU after another until the process is killed.
///
/// bangerd ends this process after QEMU. If it ended by itself, bangerd could not know which of the two failed.
fn run(config: Config) -> Result<(), Error> {
    rustix::thread::set_no_new_privs(true).map_err(|source| Error::Process(source.into()))?;
    let mut device = Device::bind(config)?;
    loop {
        device.serve()?;
    }
}
