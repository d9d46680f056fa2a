//! Standard input, read by a thread of its own: it may be a file, a pipe or a terminal, may be shared with other
//! programs, and so can neither be watched in one way nor be made non-blocking.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

/// Most bytes at a time.
pub(crate) const PART: usize = 64 << 10;

/// What is read ahead. Nothing more is read once it is dropped, so that what is typed after the session is not lost.
#[derive(Debug)]
pub(crate) struct Stdin {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    _stop: io::PipeWriter,
}

/// Begins to read.
pub(crate) fn read_ahead() -> io::Result<Stdin> {
    let (stopped, stop) = io::pipe()?;
    let (sender, parts) = mpsc::channel(1);
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    thread::Builder::new().name("stdin".to_owned()).spawn(move || read(stdin, &stopped, &sender))?;
    Ok(Stdin { parts, _stop: stop })
}

impl Stdin {
    /// The next part; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.parts.recv().await
    }
}

fn read(stdin: OwnedFd, stopped: &io::PipeReader, parts: &mpsc::Sender<io::Result<Bytes>>) {
    let mut stdin = std::fs::File::from(stdin);
    let mut buffer = vec![0; PART];
    loop {
        let part =
            wait(&stdin, stopped).and_then(|go_on| if go_on { stdin.read(&mut buffer) } else { Ok(0) });
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

/// Waits until there is something to read; false when nothing more is wanted.
fn wait(stdin: impl AsFd, stopped: impl AsFd) -> io::Result<bool> {
    let mut both = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
    poll(&mut both, None)?;
    Ok(both[1].revents().is_empty())
}
