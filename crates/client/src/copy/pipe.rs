//! Pipes between a blocking thread and the asynchronous connection.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Maximum number of bytes in a chunk.
pub(super) const PART: usize = 64 << 10;

/// Maximum number of chunks that wait for the other side.
pub(super) const WAITING: usize = 4;

/// The thread's end of the pipe to the guest.
#[derive(Debug)]
pub struct ToGuest(pub(super) mpsc::Sender<Bytes>);

impl Write for ToGuest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..PART).unwrap_or(bytes);
        match self.0.blocking_send(Bytes::copy_from_slice(part)) {
            Ok(()) => Ok(part.len()),
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
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
}

impl FromGuest {
    pub(super) fn new(parts: mpsc::Receiver<Bytes>) -> Self {
        Self { parts, part: Bytes::new() }
    }
}

impl Read for FromGuest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let count = self.part.len().min(buffer.len());
        self.part.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}
