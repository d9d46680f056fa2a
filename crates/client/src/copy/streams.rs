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

use super::{CopyEvent, SILENCE, lines::Lines, pipe::PART, silent};
use crate::{
    Tunnel,
    exec::{ExecInput, ExecOutput, Output},
};

/// Timeout for the sending thread to end after its last chunk, which the guest has acknowledged by exiting.
const LAST: Duration = Duration::from_secs(60);

/// The streams in both directions.
pub(super) struct Streams<R = ReadHalf<Tunnel>, W = WriteHalf<Tunnel>> {
    pub(super) input: ExecInput<W>,
    pub(super) output: ExecOutput<R>,
    /// Data from the sending thread for the guest; `None` if the guest accepts none.
    pub(super) parts: Option<mpsc::Receiver<Bytes>>,
    /// Messages about what that thread skipped.
    pub(super) passed: mpsc::UnboundedReceiver<String>,
    /// Data for the receiving thread; if `None`, data from the guest is dropped.
    pub(super) came: Option<mpsc::Sender<Bytes>>,
}

/// The end of the transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// The exit status of the agent's end.
    pub(super) status: ExitStatus,
    /// Whether all data had been sent by then.
    pub(super) whole: bool,
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
    pub(super) async fn pass(
        mut self,
        lines: &mut Lines,
        tell: &mut dyn FnMut(CopyEvent),
    ) -> Result<Ended, ApiError> {
        let mut through = 0;
        let mut sending = if self.parts.is_some() { Sending::On } else { Sending::Done };
        let mut parts = self.parts.take().unwrap_or_else(|| mpsc::channel(1).1);
        loop {
            let may_send = sending == Sending::On && self.input.window() >= PART;
            tokio::select! {
                biased;
                Some(sentence) = self.passed.recv() => tell(CopyEvent::PassedOver(sentence)),
                came = self.output.next() => match came? {
                    Output::Stdout(bytes) => {
                        through += bytes.len() as u64;
                        tell(CopyEvent::Through(through));
                        if let Some(thread) = &self.came
                            && thread.send(bytes).await.is_err()
                        {
                            // The thread has ended, and its own result says why.
                            self.came = None;
                        }
                    }
                    Output::Stderr(bytes) => lines.push(&bytes, tell),
                    Output::Taken(bytes) => self.input.taken(bytes),
                    Output::Exited(status) => {
                        // The guest detects the end in the data, and may exit before the end is detected here.
                        let whole = match sending {
                            Sending::Done => true,
                            Sending::On => matches!(timeout(LAST, parts.recv()).await, Ok(None)),
                            Sending::Broken => false,
                        };
                        return Ok(Ended { status, whole });
                    }
                },
                part = parts.recv(), if may_send => {
                    // A guest that accepts no more data has reported the reason, or will.
                    sending = match part {
                        Some(bytes) => {
                            through += bytes.len() as u64;
                            tell(CopyEvent::Through(through));
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
                () = sleep(SILENCE), if !may_send => return Err(silent()),
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

    fn exited() -> BytesMut {
        let mut exited = BytesMut::new();
        Frame::control(&Reply::Exited { status: ExitStatus::Code(0) }).unwrap().encode(&mut exited);
        exited
    }

    /// Transfers the data of `parts` while `then` runs concurrently.
    async fn pass(
        input: impl AsyncWrite + Unpin,
        output: impl AsyncRead + Unpin,
        parts: mpsc::Receiver<Bytes>,
        then: impl Future<Output = ()>,
    ) -> Ended {
        let streams = Streams {
            input: ExecInput::over(input),
            output: ExecOutput::over(output),
            parts: Some(parts),
            passed: mpsc::unbounded_channel().1,
            came: None,
        };
        let (mut lines, mut tell) = (Lines::default(), |_| ());
        let passing = streams.pass(&mut lines, &mut tell);
        let (ended, ()) = tokio::join!(biased; passing, then);
        ended.unwrap()
    }

    /// The guest exits first; only then does the sending thread run `ends`.
    async fn exited_before_the_end(ends: impl FnOnce(mpsc::Sender<Bytes>)) -> Ended {
        let (parts, receiver) = mpsc::channel(1);
        pass(tokio::io::sink(), &exited()[..], receiver, async { ends(parts) }).await
    }

    /// The guest accepts no more data when `parts` are sent; its exit is detected only then.
    async fn exited_and_gone(parts: mpsc::Receiver<Bytes>) -> Ended {
        let (input, _) = duplex(1);
        let (mut guest, output) = duplex(1024);
        pass(input, output, parts, async move { guest.write_all(&exited()).await.unwrap() }).await
    }

    #[tokio::test]
    async fn a_guest_may_exit_before_the_end_is_noticed_here() {
        assert!(exited_before_the_end(drop).await.whole);
    }

    #[tokio::test]
    async fn what_was_left_when_the_guest_exited_has_not_been_sent() {
        let ended = exited_before_the_end(|parts| parts.try_send(Bytes::from_static(b"more")).unwrap()).await;
        assert!(!ended.whole);
    }

    #[tokio::test]
    async fn a_guest_that_has_all_need_not_hear_of_the_end() {
        let (_, ended) = mpsc::channel(1);
        assert!(exited_and_gone(ended).await.whole);
    }

    #[tokio::test]
    async fn what_a_guest_did_not_take_has_not_been_sent() {
        let (parts, receiver) = mpsc::channel(1);
        parts.try_send(Bytes::from_static(b"more")).unwrap();
        assert!(!exited_and_gone(receiver).await.whole);
    }
}
