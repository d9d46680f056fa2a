//! A program's standard input, as the host sends it.

use std::rc::Rc;

use banger_proto::Frame;
use banger_sys::Terminal;
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    sync::{mpsc, watch},
};

use crate::window::{Queued, tell};

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

/// Gives the program its input as fast as it takes it, and tells the host of it, until the program has ended.
pub(super) async fn feed(
    mut input: Input,
    mut queued: Queued,
    frames: mpsc::Sender<Frame>,
    mut ended: watch::Receiver<bool>,
) {
    let feeding = async {
        while let Some(bytes) = queued.next().await {
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
            if !tell(&frames, &queued.taken(bytes.len())).await {
                return;
            }
        }
    };
    tokio::select! {
        () = feeding => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}
