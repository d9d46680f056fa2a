//! A program's output, as it goes to the host.

use std::{io, rc::Rc, time::Duration};

use banger_proto::{Frame, Stream};
use banger_sys::Terminal;
use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{mpsc, watch},
    time::timeout,
};

/// Most bytes of a frame; a pipe holds as many.
const PART: usize = 64 << 10;

/// How long a terminal may take to show what its program wrote last: the kernel passes it on from a worker.
const FLUSH: Duration = Duration::from_millis(200);

/// Where a program's output comes from.
#[derive(Debug)]
pub(super) enum Source {
    Pipe(pipe::Receiver),
    Terminal(Rc<Terminal>),
}

impl Source {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => (&**terminal).read(buffer).await,
        }
    }

    /// What is left once the program has ended. Its own children may keep the stream open for ever, so its end is not
    /// waited for.
    async fn rest(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            // What was written is in the pipe.
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Terminal(terminal) => match timeout(FLUSH, (&**terminal).read(buffer)).await {
                Ok(read) => read,
                Err(_) => Ok(0),
            },
        }
    }
}

/// Sends all that comes from `source`, and then the stream's end.
pub(super) async fn forward(
    mut source: Source,
    stream: Stream,
    frames: mpsc::Sender<Frame>,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PART];
    let mut running = true;
    loop {
        let read = if running {
            tokio::select! {
                biased;
                read = source.read(&mut buffer) => read,
                _ = ended.wait_for(|ended| *ended) => {
                    running = false;
                    continue;
                }
            }
        } else {
            source.rest(&mut buffer).await
        };
        let part = match read {
            Ok(count @ 1..) => Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default()),
            Ok(0) | Err(_) => break,
        };
        if frames.send(Frame::Data(stream, part)).await.is_err() {
            return;
        }
    }
    // A host that has hung up knows.
    let _ = frames.send(Frame::end(stream)).await;
}
