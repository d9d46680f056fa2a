//! Reads a session's output from a guest: it is no longer than the input. The first byte is the size of the reads.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use banger_client::{ExecOutput, Output};
use tokio::io::{AsyncRead, ReadBuf};

/// A stream that returns at most `step` bytes at a time.
struct ChunkedReader<'a> {
    remaining: &'a [u8],
    step: usize,
}

impl AsyncRead for ChunkedReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (chunk, remaining) =
            self.remaining.split_at(self.step.min(buffer.remaining()).min(self.remaining.len()));
        buffer.put_slice(chunk);
        self.remaining = remaining;
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn run(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let stream = ChunkedReader { remaining: bytes, step: usize::from(*step).max(1) };
    let mut output = ExecOutput::new(stream);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut output_length = 0;
    loop {
        match runtime.block_on(output.next()) {
            Ok(Output::Stdout(part) | Output::Stderr(part)) => output_length += part.len(),
            Ok(Output::Acknowledged(_) | Output::Exited(_)) => {}
            // At the latest when the stream ends.
            Err(_) => break,
        }
    }
    assert!(output_length <= bytes.len());
}
