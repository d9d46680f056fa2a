//! Standard input, read by its own thread. It may be a file, a pipe or a terminal, and other programs may share it:
//! so no single way of polling fits all, and it cannot be made non-blocking.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

/// Maximum size of a read, in bytes.
pub(crate) const MAX_READ: usize = 64 << 10;

/// Input that was read ahead. Dropping it stops reading, so that input typed after the session is not lost.
#[derive(Debug)]
pub(crate) struct Stdin {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    _stop: io::PipeWriter,
}

/// Starts the reading thread.
pub(crate) fn read_ahead() -> io::Result<Stdin> {
    let (stopped, stop) = io::pipe()?;
    let (sender, parts) = mpsc::channel(1);
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || read(stdin, &stopped, &sender))?;
    Ok(Stdin { parts, _stop: stop })
}

impl Stdin {
    /// Returns the next part; `None` at the end of input.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.parts.recv().await
    }
}

fn read(stdin: OwnedFd, stopped: &io::PipeReader, parts: &mpsc::Sender<io::Result<Bytes>>) {
    let mut stdin = std::fs::File::from(stdin);
    let mut buffer = vec![0; MAX_READ];
    loop {
        let part = wait(&stdin, stopped)
            .and_then(|has_input| if has_input { stdin.read(&mut buffer) } else { Ok(0) });
        let part = match part {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = part.is_err();
        if parts.blocking_send(part).is_err() || failed {
            return;
        }
    }
}

/// Waits for input; returns false if reading must stop.
fn wait(stdin: impl AsFd, stopped: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
    poll(&mut fds, None)?;
    Ok(fds[1].revents().is_empty())
}
