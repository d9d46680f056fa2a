//! A connection to the host, in frames.

use std::io;

use banger_proto::{Decoder, Frame, FrameError, FrameHeader, HEADER_LEN, Stream};
use bytes::BytesMut;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::stream::{Duplex, Socket};

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: ReadHalf<Socket>,
    decoder: Decoder,
}

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: WriteHalf<Socket>,
    bytes: BytesMut,
}

/// Splits a connection into its halves.
pub(crate) fn split(stream: impl Duplex + 'static) -> (Incoming, Outgoing) {
    let (read, write) = tokio::io::split(Box::pin(stream) as Socket);
    (
        Incoming { stream: read, decoder: Decoder::default() },
        Outgoing { stream: write, bytes: BytesMut::new() },
    )
}

impl Incoming {
    /// Returns the next frame, or `None` if the host has closed the connection.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.stream.read_buf(self.decoder.buffer()).await {
                Ok(0) => return self.decoder.finish().map(|()| None),
                Ok(_) => {}
                // A broken connection counts as closed.
                Err(_) => return Ok(None),
            }
        }
    }

    /// Returns whether bytes of a next frame were received.
    pub(crate) fn has_more(&mut self) -> bool {
        !self.decoder.buffer().is_empty()
    }
}

impl Outgoing {
    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.bytes.clear();
        frame.encode(&mut self.bytes);
        self.stream.write_all(&self.bytes).await
    }

    /// Sends the data frame in `frame`, whose data follows room for its header. This copies nothing.
    pub(crate) async fn send_in_place(&mut self, stream: Stream, frame: &mut [u8]) -> io::Result<()> {
        if let Some((header, data)) = frame.split_first_chunk_mut::<HEADER_LEN>() {
            *header = FrameHeader::of_data(stream, data.len());
        }
        self.stream.write_all(frame).await
    }

    /// Sends a message.
    pub(crate) async fn send_message<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.send(&Frame::control(message).map_err(io::Error::other)?).await
    }

    /// Closes the sending half in order, so that the last frame is not lost.
    pub(crate) async fn finish(mut self) {
        // The host may have closed the connection.
        let _ = self.stream.shutdown().await;
    }
}
