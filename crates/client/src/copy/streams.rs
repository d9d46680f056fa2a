//! The streams of an exec of the agent's own, between the connection and the threads that read and write here.

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

/// How long the sending thread may take to end after its last part, which the guest has acknowledged by exiting.
const LAST: Duration = Duration::from_secs(60);

/// All that goes one way or the other.
pub(super) struct Streams<R = ReadHalf<Tunnel>, W = WriteHalf<Tunnel>> {
    pub(super) input: ExecInput<W>,
    pub(super) output: ExecOutput<R>,
    /// What the sending thread has for the guest; `None` when the guest wants nothing.
    pub(super) parts: Option<mpsc::Receiver<Bytes>>,
    /// What that thread has passed over.
    pub(super) passed: mpsc::UnboundedReceiver<String>,
    /// To the receiving thread; without one, what comes is dropped.
    pub(super) came: Option<mpsc::Sender<Bytes>>,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// How the agent's end ended.
    pub(super) status: ExitStatus,
    /// Whether all had been sent by then.
    pub(super) whole: bool,
}

/// How far the sending is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    On,
    Done,
    Broken,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Streams<R, W> {
    /// Passes everything on until the agent's end has ended.
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
                            // It has had enough, and its own result says why.
                            self.came = None;
                        }
                    }
                    Output::Stderr(bytes) => lines.push(&bytes, tell),
                    Output::Taken(bytes) => self.input.taken(bytes),
                    Output::Exited(status) => {
                        // The guest knows the end by what was sent, and may exit before the end is noticed here.
                        let whole = match sending {
                            Sending::Done => true,
                            Sending::On => matches!(timeout(LAST, parts.recv()).await, Ok(None)),
                            Sending::Broken => false,
                        };
                        return Ok(Ended { status, whole });
                    }
                },
                part = parts.recv(), if may_send => {
                    let (sent, next) = match part {
                        Some(bytes) => {
                            through += bytes.len() as u64;
                            tell(CopyEvent::Through(through));
                            (self.input.stdin(&bytes).await, Sending::On)
                        }
                        None => (self.input.end_stdin().await, Sending::Done),
                    };
                    // A guest that takes no more has said why, or will.
                    sending = if sent.is_ok() { next } else { Sending::Broken };
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

    use super::*;

    /// The guest exits first, and only then does the sending thread do what `ends` does.
    async fn exited_before_the_end(ends: impl FnOnce(mpsc::Sender<Bytes>)) -> Ended {
        let mut exited = BytesMut::new();
        Frame::control(&Reply::Exited { status: ExitStatus::Code(0) }).unwrap().encode(&mut exited);
        let (parts, receiver) = mpsc::channel(1);
        let streams = Streams {
            input: ExecInput::over(tokio::io::sink()),
            output: ExecOutput::over(&exited[..]),
            parts: Some(receiver),
            passed: mpsc::unbounded_channel().1,
            came: None,
        };
        let (mut lines, mut tell) = (Lines::default(), |_| ());
        let passing = streams.pass(&mut lines, &mut tell);
        let (ended, ()) = tokio::join!(biased; passing, async { ends(parts) });
        ended.unwrap()
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
}
