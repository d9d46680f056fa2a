//! Pipes between a blocking thread and the asynchronous connection.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Maximum number of bytes in a chunk.
pub(super) const MAX_CHUNK: usize = 64 << 10;

/// Maximum number of chunks that wait for the other side.
pub(super) const MAX_WAITING_CHUNKS: usize = 4;

/// The thread's end of the pipe to the guest.
#[derive(Debug)]
pub struct ToGuest(pub(super) mpsc::Sender<Bytes>);

impl Write for ToGuest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = bytes.get(..MAX_CHUNK).unwrap_or(bytes);
        match self.0.blocking_send(Bytes::copy_from_slice(chunk)) {
            Ok(()) => Ok(chunk.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's end of the pipe from the guest.
#[derive(Debug)]
pub struct FromGuest {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl FromGuest {
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { chunks, chunk: Bytes::new() }
    }
}

impl Read for FromGuest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}
