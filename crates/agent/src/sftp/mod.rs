//! SFTP, version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions: an exec like any other, of the agent itself,
//! so that any image has it, and whose files they are is for the kernel to say.
//!
//! Requests are answered one after another; what a client sends ahead waits in the pipe.

mod answer;
mod attributes;
mod failure;
mod handles;
mod listing;
mod packet;
mod path;

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
};

use banger_proto::{Exec, Sftp};

use crate::console::fail;

/// The word by which the agent is told to do it.
pub(crate) const COMMAND: &str = "sftp";

/// Bytes that are read at a time; a pipe holds as many.
const BUFFER: usize = 64 << 10;

/// The program that carries out `request`.
pub(crate) fn as_exec(request: Sftp) -> Exec {
    let argv = vec!["/proc/self/exe".to_owned(), COMMAND.to_owned()];
    Exec { argv, user: request.user, stdin: true, ..Exec::default() }
}

/// That program.
pub(crate) fn run() -> ExitCode {
    match whole_file(io::stdin()).and_then(|stdin| Ok((stdin, whole_file(io::stdout())?))) {
        Ok((stdin, stdout)) => match serve(BufReader::with_capacity(BUFFER, stdin), stdout) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("sftp: {error}")),
        },
        Err(error) => fail(&format!("sftp: {error}")),
    }
}

/// Answers what comes from `client` until that ends.
fn serve(mut client: impl Read, mut to_client: impl Write) -> io::Result<()> {
    let mut server = answer::Server::default();
    while let Some(packet) = packet::read(&mut client)? {
        to_client.write_all(&server.answer(&packet)?)?;
    }
    Ok(())
}

/// A standard stream without the buffer that is for lines.
fn whole_file(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
