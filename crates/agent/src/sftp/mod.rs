//! Serves SFTP, version 3 (draft-ietf-secsh-filexfer-02), with OpenSSH's extensions.
//!
//! It is an exec of the agent itself, so that it works in any image and the kernel enforces file permissions. The
//! server handles requests one after another; requests that a client sends ahead wait in the pipe.

mod attributes;
mod handles;
mod listing;
mod packet;
mod path;
mod server;
mod status;

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use banger_proto::{Exec, Sftp};

use crate::console::fail;

/// The agent's subcommand for SFTP.
pub(crate) const COMMAND: &str = "sftp";

/// Size of the read buffer, in bytes; the capacity of a pipe.
const BUFFER: usize = 64 << 10;

/// Returns the exec that carries out `request`.
pub(crate) fn as_exec(request: Sftp) -> Exec {
    let argv = vec!["/proc/self/exe".to_owned(), COMMAND.to_owned()];
    Exec { argv, user: request.user, stdin: true, ..Exec::default() }
}

/// Runs the subcommand.
pub(crate) fn run() -> ExitCode {
    match unbuffered(io::stdin()).and_then(|stdin| Ok((stdin, unbuffered(io::stdout())?))) {
        Ok((stdin, stdout)) => match serve(BufReader::with_capacity(BUFFER, stdin), stdout) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("sftp: {error}")),
        },
        Err(error) => fail(&format!("sftp: {error}")),
    }
}

/// Responds to requests from `client` until it ends.
fn serve(mut client: impl Read, mut to_client: impl Write) -> io::Result<()> {
    let mut server = server::Server::default();
    while let Some(packet) = packet::read(&mut client)? {
        to_client.write_all(&server.respond(&packet)?)?;
    }
    Ok(())
}

/// Returns a standard stream as a file, without the standard library's buffer.
fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
