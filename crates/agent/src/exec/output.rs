//! Sends a program's output to the host.

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

/// Maximum data in a frame, in bytes; the capacity of a pipe.
const MAX_CHUNK: usize = 64 << 10;

/// Timeout for a terminal's last output: the kernel forwards it from a worker.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// The source of a program's output.
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

    /// Reads what is left after the program has ended. Does not wait for the stream's end, because the program's
    /// children may keep it open forever.
    async fn read_rest(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            // All written bytes are in the pipe already.
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Terminal(terminal) => match timeout(FLUSH_TIMEOUT, (&**terminal).read(buffer)).await {
                Ok(read) => read,
                Err(_) => Ok(0),
            },
        }
    }
}

/// Sends all data from `source`, then the end of the stream.
pub(super) async fn forward(
    mut source: Source,
    stream: Stream,
    frames: mpsc::Sender<Frame>,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; MAX_CHUNK];
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
            source.read_rest(&mut buffer).await
        };
        let chunk = match read {
            Ok(count @ 1..) => Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default()),
            Ok(0) | Err(_) => break,
        };
        if frames.send(Frame::Data(stream, chunk)).await.is_err() {
            return;
        }
    }
    // The host may have closed the connection.
    let _ = frames.send(Frame::end(stream)).await;
}
