//! This process's standard streams, which ssh talks to.

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

/// Standard input and output: pipes, as OpenSSH makes them, or whatever else.
pub(super) fn streams() -> io::Result<(Input, Output)> {
    let input: Input = match pipe::Receiver::from_owned_fd(copy(io::stdin())?) {
        Ok(pipe) => Box::new(pipe),
        Err(_no_pipe) => Box::new(tokio::io::stdin()),
    };
    let output: Output = match pipe::Sender::from_owned_fd(copy(io::stdout())?) {
        Ok(pipe) => Box::new(pipe),
        Err(_no_pipe) => Box::new(tokio::io::stdout()),
    };
    Ok((input, output))
}

/// Waits until nobody can read standard output any more. What ssh has sent last may never be read, so that the end of
/// standard input would not show.
pub(super) async fn client_gone() -> io::Result<()> {
    let (tell, gone) = oneshot::channel();
    let stdout = copy(io::stdout())?;
    // Not one of the runtime's, which would be waited for.
    thread::Builder::new().name("ssh's end".to_owned()).spawn(move || {
        // Asked for nothing, it waits for what is always told.
        let gone = poll(&mut [PollFd::new(&stdout, PollFlags::empty())], None);
        // Nobody may wait any more.
        let _ = tell.send(gone);
    })?;
    match gone.await {
        Ok(gone) => Ok(gone.map(drop)?),
        Err(_) => Err(io::Error::other("the thread that waits for ssh's end has ended")),
    }
}

fn copy(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}
