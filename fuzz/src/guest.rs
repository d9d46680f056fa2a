//! Reads a session's output from a guest: it is no longer than the input. The first byte is the size of the reads.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use banger_client::{ExecOutput, Output};
use tokio::io::{AsyncRead, ReadBuf};

/// A stream that returns at most `step` bytes at a time.
struct Pieces<'a> {
    left: &'a [u8],
    step: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (piece, left) = self.left.split_at(self.step.min(buffer.remaining()).min(self.left.len()));
        buffer.put_slice(piece);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn run(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let stream = Pieces { left: bytes, step: usize::from(*step).max(1) };
    let mut output = ExecOutput::over(stream);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut said = 0;
    loop {
        match runtime.block_on(output.next()) {
            Ok(Output::Stdout(part) | Output::Stderr(part)) => said += part.len(),
            Ok(Output::Taken(_) | Output::Exited(_)) => {}
            // At the latest when the stream ends.
            Err(_) => break,
        }
    }
    assert!(said <= bytes.len());
}
