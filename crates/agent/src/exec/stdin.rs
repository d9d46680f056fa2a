//! A program's standard input, as the host sends it.

use std::{cell::Cell, rc::Rc};

use banger_proto::{Frame, Reply, STDIN_WINDOW};
use banger_sys::Terminal;
use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    sync::{mpsc, watch},
};

/// The character by which a terminal is told that there is no more input.
const END_OF_TRANSMISSION: [u8; 1] = [4];

/// Where a program's input goes.
#[derive(Debug)]
pub(super) enum Input {
    /// Nowhere: the program has `/dev/null`.
    Nothing,
    Pipe(pipe::Sender),
    Terminal(Rc<Terminal>),
}

/// Bytes for the program, as many as the host may send ahead.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: mpsc::UnboundedSender<Bytes>,
    waiting: Rc<Cell<usize>>,
}

#[derive(Debug)]
pub(super) struct Queued {
    bytes: mpsc::UnboundedReceiver<Bytes>,
    waiting: Rc<Cell<usize>>,
}

/// The host has sent more than it may.
#[derive(Debug)]
pub(super) struct OverWindow;

pub(super) fn queue() -> (Queue, Queued) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Rc::new(Cell::new(0));
    (Queue { bytes: sender, waiting: waiting.clone() }, Queued { bytes: receiver, waiting })
}

impl Queue {
    /// Takes `bytes` in; none at all are the end.
    pub(super) fn push(&self, bytes: Bytes) -> Result<(), OverWindow> {
        let waiting = self.waiting.get() + bytes.len();
        if waiting > STDIN_WINDOW {
            return Err(OverWindow);
        }
        self.waiting.set(waiting);
        // The program may have ended.
        let _ = self.bytes.send(bytes);
        Ok(())
    }
}

/// Gives the program its input as fast as it takes it, and tells the host of it, until the program has ended.
pub(super) async fn feed(
    mut input: Input,
    mut queued: Queued,
    frames: mpsc::Sender<Frame>,
    mut ended: watch::Receiver<bool>,
) {
    let feeding = async {
        while let Some(bytes) = queued.bytes.recv().await {
            if bytes.is_empty() {
                if let Input::Terminal(terminal) = &input {
                    // Its program may have ended.
                    let _ = (&**terminal).write_all(&END_OF_TRANSMISSION).await;
                }
                return;
            }
            let written = match &mut input {
                Input::Nothing => Ok(()),
                Input::Pipe(pipe) => pipe.write_all(&bytes).await,
                Input::Terminal(terminal) => (&**terminal).write_all(&bytes).await,
            };
            if written.is_err() {
                // The program has closed its input: what else comes is nobody's.
                input = Input::Nothing;
            }
            queued.waiting.set(queued.waiting.get().saturating_sub(bytes.len()));
            let taken = Reply::Taken { bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
            let Ok(frame) = Frame::control(&taken) else { return };
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = feeding => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}
