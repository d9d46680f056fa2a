//! `banger-vsock-device`: the vsock of one QEMU guest. `bangerd` starts and ends it.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use banger_sys::confine::keep_open_descriptors_only;
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
    /// Socket for host programs to connect to
    #[arg(long, value_name = "PATH")]
    host_socket: PathBuf,
    /// Port that the guest may connect to, once; its connection is opened at the start, to HOST_SOCKET_PORT
    #[arg(long, value_name = "PORT")]
    ready_port: u32,
}

fn main() -> ExitCode {
    let Args { guest_cid, vhost_socket, host_socket, ready_port } = Args::parse();
    match run(Config { guest_cid, vhost_socket, host_socket, ready_port: Some(ready_port) }) {
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
    let mut device = Device::bind(config)?;
    // The guest's packets come from here on.
    keep_open_descriptors_only().map_err(Error::Process)?;
    loop {
        device.serve()?;
    }
}
