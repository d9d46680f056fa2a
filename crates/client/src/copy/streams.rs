//! The streams of an agent's exec, between the connection and the threads that read and write here.

use std::time::Duration;

use banger_api::ApiError;
use banger_proto::ExitStatus;
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{CopyEvent, IDLE_TIMEOUT, idle_error, lines::Lines, pipe::MAX_CHUNK};
use crate::{
    Tunnel,
    exec::{ExecInput, ExecOutput, Output},
};

/// Timeout for the sending thread to end after its last chunk, which the guest has acknowledged by exiting.
const LAST_CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

/// The streams in both directions.
pub(super) struct Streams<R = ReadHalf<Tunnel>, W = WriteHalf<Tunnel>> {
    pub(super) input: ExecInput<W>,
    pub(super) output: ExecOutput<R>,
    /// Data from the sending thread for the guest; `None` if the guest accepts none.
    pub(super) chunks: Option<mpsc::Receiver<Bytes>>,
    /// Messages about what that thread skipped.
    pub(super) skipped: mpsc::UnboundedReceiver<String>,
    /// Data for the receiving thread; if `None`, data from the guest is dropped.
    pub(super) received: Option<mpsc::Sender<Bytes>>,
}

/// The end of the transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// The exit status of the agent's end.
    pub(super) status: ExitStatus,
    /// Whether all data had been sent by then.
    pub(super) complete: bool,
}

/// State of the sending direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    On,
    Done,
    Broken,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Streams<R, W> {
    /// Transfers all data until the agent's end has exited.
    pub(super) async fn transfer(
        mut self,
        lines: &mut Lines,
        on_event: &mut dyn FnMut(CopyEvent),
    ) -> Result<Outcome, ApiError> {
        let mut transferred = 0;
        let mut sending = if self.chunks.is_some() { Sending::On } else { Sending::Done };
        let mut chunks = self.chunks.take().unwrap_or_else(|| mpsc::channel(1).1);
        loop {
            let may_send = sending == Sending::On && self.input.window() >= MAX_CHUNK;
            tokio::select! {
                biased;
                Some(sentence) = self.skipped.recv() => on_event(CopyEvent::Skipped(sentence)),
                message = self.output.next() => match message? {
                    Output::Stdout(bytes) => {
                        transferred += bytes.len() as u64;
                        on_event(CopyEvent::Progress(transferred));
                        if let Some(thread) = &self.received
                            && thread.send(bytes).await.is_err()
                        {
                            // The thread has ended, and its own result says why.
                            self.received = None;
                        }
                    }
                    Output::Stderr(bytes) => lines.push(&bytes, on_event),
                    Output::Acknowledged(bytes) => self.input.acknowledge(bytes),
                    Output::Exited(status) => {
                        // The guest detects the end in the data, and may exit before the end is detected here.
                        let complete = match sending {
                            Sending::Done => true,
                            Sending::On => matches!(timeout(LAST_CHUNK_TIMEOUT, chunks.recv()).await, Ok(None)),
                            Sending::Broken => false,
                        };
                        return Ok(Outcome { status, complete });
                    }
                },
                chunk = chunks.recv(), if may_send => {
                    // A guest that accepts no more data has reported the reason, or will.
                    sending = match chunk {
                        Some(bytes) => {
                            transferred += bytes.len() as u64;
                            on_event(CopyEvent::Progress(transferred));
                            let sent = self.input.stdin(&bytes).await;
                            if sent.is_ok() { Sending::On } else { Sending::Broken }
                        }
                        None => {
                            // The guest detects the end in the data, and may have exited already.
                            let _ = self.input.end_stdin().await;
                            Sending::Done
                        }
                    };
                }
                () = sleep(IDLE_TIMEOUT), if !may_send => return Err(idle_error()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use banger_proto::{Frame, Reply};
    use bytes::BytesMut;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    fn exit_frame() -> BytesMut {
        let mut bytes = BytesMut::new();
        Frame::control(&Reply::Exited { status: ExitStatus::Code(0) }).unwrap().encode(&mut bytes);
        bytes
    }

    /// Transfers the data of `chunks` while `then` runs concurrently.
    async fn transfer(
        input: impl AsyncWrite + Unpin,
        output: impl AsyncRead + Unpin,
        chunks: mpsc::Receiver<Bytes>,
        then: impl Future<Output = ()>,
    ) -> Outcome {
        let streams = Streams {
            input: ExecInput::new(input),
            output: ExecOutput::new(output),
            chunks: Some(chunks),
            skipped: mpsc::unbounded_channel().1,
            received: None,
        };
        let (mut lines, mut on_event) = (Lines::default(), |_| ());
        let transfer = streams.transfer(&mut lines, &mut on_event);
        let (outcome, ()) = tokio::join!(biased; transfer, then);
        outcome.unwrap()
    }

    /// The guest exits first; only then does the sending thread run `finish`.
    async fn transfer_with_early_exit(finish: impl FnOnce(mpsc::Sender<Bytes>)) -> Outcome {
        let (chunks, receiver) = mpsc::channel(1);
        transfer(tokio::io::sink(), &exit_frame()[..], receiver, async { finish(chunks) }).await
    }

    /// The guest accepts no more data when `chunks` are sent; its exit is detected only then.
    async fn transfer_to_exited_guest(chunks: mpsc::Receiver<Bytes>) -> Outcome {
        let (input, _) = duplex(1);
        let (mut guest, output) = duplex(1024);
        transfer(input, output, chunks, async move { guest.write_all(&exit_frame()).await.unwrap() }).await
    }

    #[tokio::test]
    async fn a_transfer_is_complete_if_the_guest_exits_before_the_end_is_detected() {
        assert!(transfer_with_early_exit(drop).await.complete);
    }

    #[tokio::test]
    async fn a_transfer_is_incomplete_if_data_remains_when_the_guest_exits() {
        let outcome =
            transfer_with_early_exit(|chunks| chunks.try_send(Bytes::from_static(b"more")).unwrap()).await;
        assert!(!outcome.complete);
    }

    #[tokio::test]
    async fn a_transfer_is_complete_even_if_the_end_cannot_be_sent() {
        let (_, ended) = mpsc::channel(1);
        assert!(transfer_to_exited_guest(ended).await.complete);
    }

    #[tokio::test]
    async fn a_transfer_is_incomplete_if_sending_a_chunk_fails() {
        let (chunks, receiver) = mpsc::channel(1);
        chunks.try_send(Bytes::from_static(b"more")).unwrap();
        assert!(!transfer_to_exited_guest(receiver).await.complete);
    }
}
