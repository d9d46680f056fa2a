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
    protocol::protocol_error,
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
    /// Data for the receiving thread; `None` if the guest is to send none.
    pub(super) received: Option<mpsc::Sender<Bytes>>,
}

/// The end of the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The agent's end has exited.
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// Whether all data had been sent by then.
        complete: bool,
    },
    /// The receiving thread has ended, and the guest sends more data.
    Surplus,
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
    ///
    /// # Errors
    /// Returns an error if the connection breaks, or the guest does not follow the protocol.
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
                        match &self.received {
                            Some(thread) if thread.send(bytes).await.is_ok() => {}
                            Some(_) => return Ok(Outcome::Surplus),
                            None => return Err(surplus()),
                        }
                    }
                    Output::Stderr(bytes) => lines.push(&bytes, on_event)?,
                    Output::Acknowledged(_) => {}
                    Output::Exited(status) => {
                        // The guest detects the end in the data, and may exit before the end is detected here.
                        let complete = match sending {
                            Sending::Done => true,
                            Sending::On => matches!(timeout(LAST_CHUNK_TIMEOUT, chunks.recv()).await, Ok(None)),
                            Sending::Broken => false,
                        };
                        return Ok(Outcome::Exited { status, complete });
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

/// Returns the error for a guest that sends more data than was requested.
pub(super) fn surplus() -> ApiError {
    protocol_error("it sent data that was not requested")
}

#[cfg(test)]
mod tests {
    use banger_proto::{Frame, Reply, Stream};
    use bytes::BytesMut;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::exec::halves;

    fn exit_frame() -> BytesMut {
        let mut bytes = BytesMut::new();
        Frame::control(&Reply::Exited { status: ExitStatus::Code(0) }).unwrap().encode(&mut bytes);
        bytes
    }

    /// Transfers data in both directions while `then` runs concurrently.
    async fn transfer(
        input: impl AsyncWrite + Unpin,
        output: impl AsyncRead + Unpin,
        chunks: mpsc::Receiver<Bytes>,
        received: Option<mpsc::Sender<Bytes>>,
        then: impl Future<Output = ()>,
    ) -> Result<Outcome, ApiError> {
        let (input, output) = halves(output, input);
        let streams =
            Streams { input, output, chunks: Some(chunks), skipped: mpsc::unbounded_channel().1, received };
        let (mut lines, mut on_event) = (Lines::default(), |_| ());
        let transfer = streams.transfer(&mut lines, &mut on_event);
        let (outcome, ()) = tokio::join!(biased; transfer, then);
        outcome
    }

    fn exited(complete: bool) -> Outcome {
        Outcome::Exited { status: ExitStatus::Code(0), complete }
    }

    /// The guest exits first; only then does the sending thread run `finish`.
    async fn transfer_with_early_exit(finish: impl FnOnce(mpsc::Sender<Bytes>)) -> Outcome {
        let (chunks, receiver) = mpsc::channel(1);
        transfer(tokio::io::sink(), &exit_frame()[..], receiver, None, async { finish(chunks) })
            .await
            .unwrap()
    }

    /// The guest accepts no more data when `chunks` are sent; its exit is detected only then.
    async fn transfer_to_exited_guest(chunks: mpsc::Receiver<Bytes>) -> Outcome {
        let (input, _) = duplex(1);
        let (mut guest, output) = duplex(1024);
        let then = async move { guest.write_all(&exit_frame()).await.unwrap() };
        transfer(input, output, chunks, None, then).await.unwrap()
    }

    #[tokio::test]
    async fn a_transfer_is_complete_if_the_guest_exits_before_the_end_is_detected() {
        assert_eq!(transfer_with_early_exit(drop).await, exited(true));
    }

    #[tokio::test]
    async fn a_transfer_is_incomplete_if_data_remains_when_the_guest_exits() {
        let outcome =
            transfer_with_early_exit(|chunks| chunks.try_send(Bytes::from_static(b"more")).unwrap()).await;
        assert_eq!(outcome, exited(false));
    }

    #[tokio::test]
    async fn a_transfer_is_complete_even_if_the_end_cannot_be_sent() {
        let (_, ended) = mpsc::channel(1);
        assert_eq!(transfer_to_exited_guest(ended).await, exited(true));
    }

    #[tokio::test]
    async fn a_transfer_is_incomplete_if_sending_a_chunk_fails() {
        let (chunks, receiver) = mpsc::channel(1);
        chunks.try_send(Bytes::from_static(b"more")).unwrap();
        assert_eq!(transfer_to_exited_guest(receiver).await, exited(false));
    }

    #[tokio::test]
    async fn a_guest_that_sends_more_than_was_requested_ends_the_transfer() {
        let mut bytes = BytesMut::new();
        Frame::Data(Stream::Stdout, Bytes::from_static(b"more")).encode(&mut bytes);
        let chunks = || mpsc::channel(1).1;
        let sink = tokio::io::sink;
        let error = transfer(sink(), &bytes[..], chunks(), None, async {}).await.unwrap_err();
        assert!(error.message.contains("not requested"), "{error}");
        let (received, thread) = mpsc::channel(1);
        drop(thread);
        let outcome = transfer(sink(), &bytes[..], chunks(), Some(received), async {}).await;
        assert_eq!(outcome.unwrap(), Outcome::Surplus);
    }
}
