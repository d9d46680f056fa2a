//! This process's standard streams, which ssh uses.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::unix::pipe,
    sync::oneshot,
};

pub(super) type Input = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Returns standard input and output: pipes, as OpenSSH creates them, or any other file.
pub(super) fn streams() -> io::Result<(Input, Output)> {
    let input: Input = match pipe::Receiver::from_owned_fd(copy(io::stdin())?) {
        Ok(pipe) => Box::new(pipe),
        Err(_not_a_pipe) => Box::new(tokio::io::stdin()),
    };
    let output: Output = match pipe::Sender::from_owned_fd(copy(io::stdout())?) {
        Ok(pipe) => Box::new(pipe),
        Err(_not_a_pipe) => Box::new(tokio::io::stdout()),
    };
    Ok((input, output))
}

/// Waits until standard output has no reader. ssh's last bytes may never be read, so the end of standard input would
/// go unnoticed.
pub(super) async fn client_disconnected() -> io::Result<()> {
    let (sender, result) = oneshot::channel();
    let stdout = copy(io::stdout())?;
    // A separate thread, because the runtime would wait for its own threads at exit.
    thread::Builder::new().name("ssh's end".to_owned()).spawn(move || {
        // poll(2) reports errors and hang-ups even if no events are requested.
        let result = poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None);
        // The receiver may be gone.
        let _ = sender.send(result);
    })?;
    match result.await {
        Ok(result) => Ok(result.map(drop)?),
        Err(_) => Err(io::Error::other("the thread that waits for ssh to exit has ended")),
    }
}

fn copy(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}
