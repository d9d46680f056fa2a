//! The streams of an exec of the agent's own, between the connection and the threads that read and write here.

use std::time::Duration;

use banger_api::ApiError;
use banger_proto::ExitStatus;
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{CopyEvent, SILENCE, lines::Lines, pipe::PART, silent};
use crate::exec::{ExecInput, ExecOutput, Output};

/// How long the sending thread may take to end after its last part, which the guest has acknowledged by exiting.
const LAST: Duration = Duration::from_secs(60);

/// All that goes one way or the other.
pub(super) struct Streams {
    pub(super) input: ExecInput,
    pub(super) output: ExecOutput,
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

impl Streams {
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
