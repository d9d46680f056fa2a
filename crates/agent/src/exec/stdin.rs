//! Forwards the host's input to a program.

use std::rc::Rc;

use banger_proto::Frame;
use banger_sys::Terminal;
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    sync::{mpsc, watch},
};

use crate::window::{QueueReceiver, send_reply};

/// The character that ends a terminal's input.
const END_OF_TRANSMISSION: [u8; 1] = [4];

/// The destination of a program's input.
#[derive(Debug)]
pub(super) enum Input {
    /// No input: the program reads `/dev/null`.
    Nothing,
    Pipe(pipe::Sender),
    Terminal(Rc<Terminal>),
}

/// Writes queued input to the program and acknowledges it to the host, until the program ends.
pub(super) async fn feed(
    mut input: Input,
    mut queued: QueueReceiver,
    frames: mpsc::Sender<Frame>,
    mut ended: watch::Receiver<bool>,
) {
    let feeding = async {
        while let Some(bytes) = queued.next().await {
            if bytes.is_empty() {
                if let Input::Terminal(terminal) = &input {
                    // The program may have ended.
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
                // The program has closed its input: discard the rest.
                input = Input::Nothing;
            }
            if !send_reply(&frames, &queued.acknowledge(bytes.len())).await {
                return;
            }
        }
    };
    tokio::select! {
        () = feeding => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}
