//! Frames: a 5-byte header (payload length as big-endian `u32`, then the kind) and the payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// Length of a frame's header in bytes.
pub const HEADER_LEN: usize = 5;

/// Maximum payload of a control frame, in bytes: fits an environment at Linux's usual limit of 128 KiB per string.
pub const MAX_CONTROL: usize = 1 << 20;

/// Maximum payload of a data frame, in bytes.
pub const MAX_DATA: usize = 1 << 20;

const CONTROL: u8 = 0;

/// A byte stream of an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Host to guest.
    Stdin = 1,
    /// Guest to host; with a terminal, all its output.
    Stdout = 2,
    /// Guest to host; never used with a terminal.
    Stderr = 3,
}

impl Stream {
    fn from_kind(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Stdin),
            2 => Some(Self::Stdout),
            3 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message in JSON; [`Frame::parse`] reads it.
    Control(Bytes),
    /// Bytes of a stream; empty bytes end it.
    Data(Stream, Bytes),
}

/// An error in the bytes of a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header has a kind that this side does not know.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    /// The header announces more bytes than a frame of its kind may hold.
    #[error("frame of {length} bytes, over the limit of {limit}")]
    TooLong {
        /// Length in the header, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection ended inside a frame.
    #[error("connection ended in the middle of a frame")]
    Truncated,
    /// A frame of the wrong type arrived, such as a data frame in place of a message.
    #[error("unexpected {0} frame")]
    Unexpected(&'static str),
    /// The JSON of a control frame is not the message expected here.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Frame {
    /// Creates the control frame that carries `message`.
    ///
    /// # Errors
    /// Returns an error if the message does not serialise, or is longer than [`MAX_CONTROL`].
    pub fn control<T: Serialize>(message: &T) -> Result<Self, FrameError> {
        let payload = serde_json::to_vec(message)?;
        if payload.len() > MAX_CONTROL {
            return Err(FrameError::TooLong { length: payload.len(), limit: MAX_CONTROL });
        }
        Ok(Self::Control(payload.into()))
    }

    /// Creates the data frame that ends `stream`.
    pub fn end(stream: Stream) -> Self {
        Self::Data(stream, Bytes::new())
    }

    /// Reads the message that a control frame carries.
    ///
    /// # Errors
    /// Returns an error if this is a data frame, or its JSON is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self {
            Self::Control(payload) => Ok(serde_json::from_slice(payload)?),
            Self::Data(..) => Err(FrameError::Unexpected("data")),
        }
    }

    /// Reads the message that a control frame of at most `limit` bytes carries.
    ///
    /// # Errors
    /// Returns an error if the frame is longer, and the errors of [`parse`](Self::parse).
    pub fn parse_within<T: DeserializeOwned>(&self, limit: usize) -> Result<T, FrameError> {
        match self {
            Self::Control(payload) if payload.len() > limit => {
                Err(FrameError::TooLong { length: payload.len(), limit })
            }
            _ => self.parse(),
        }
    }

    /// Appends the encoded frame to `out`. Splits a data frame longer than [`MAX_DATA`].
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Control(payload) => put(out, CONTROL, payload),
            Self::Data(stream, bytes) if bytes.is_empty() => put(out, *stream as u8, bytes),
            Self::Data(stream, bytes) => {
                for part in bytes.chunks(MAX_DATA) {
                    put(out, *stream as u8, part);
                }
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // callers keep payloads under 1 MiB
fn put(out: &mut BytesMut, kind: u8, payload: &[u8]) {
    out.reserve(HEADER_LEN + payload.len());
    out.put_u32(payload.len() as u32);
    out.put_u8(kind);
    out.put_slice(payload);
}

/// The header of a frame, for a reader that does not wait for the whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The stream of a data frame; `None` for a control frame.
    pub stream: Option<Stream>,
    /// Length of the payload in bytes.
    pub length: usize,
}

impl FrameHeader {
    /// Returns the header of a data frame with `length` bytes, at most [`MAX_DATA`].
    #[allow(clippy::cast_possible_truncation)] // MAX_DATA is less than a u32
    pub fn of_data(stream: Stream, length: usize) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = (length.min(MAX_DATA) as u32).to_be_bytes();
        [a, b, c, d, stream as u8]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Returns an error if the kind is unknown, or the length exceeds the limit of its kind.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let stream = match kind {
            CONTROL => None,
            kind => Some(Stream::from_kind(kind).ok_or(FrameError::UnknownKind(kind))?),
        };
        let limit = if stream.is_some() { MAX_DATA } else { MAX_CONTROL };
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        Ok(Self { stream, length })
    }
}

/// Splits a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Returns the buffer to which the caller appends received bytes.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns the next complete frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a frame. The connection is then unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let FrameHeader { stream, length } = FrameHeader::decode(*header)?;
        if self.buffer.len() < HEADER_LEN + length {
            self.buffer.reserve(HEADER_LEN + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(match stream {
            None => Frame::Control(payload),
            Some(stream) => Frame::Data(stream, payload),
        }))
    }

    /// Checks that the connection may end here.
    ///
    /// # Errors
    /// Returns [`FrameError::Truncated`] if part of a frame is left.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let stream = prop_oneof![Just(Stream::Stdin), Just(Stream::Stdout), Just(Stream::Stderr)];
        let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let frame = prop_oneof![
            bytes.clone().prop_map(Frame::Control),
            (stream, bytes).prop_map(|(stream, bytes)| Frame::Data(stream, bytes)),
        ];
        prop::collection::vec(frame, 0..12)
    }

    proptest! {
        #[test]
        fn frames_are_decoded_from_chunks_of_any_size(frames in frames(), step in 1usize..64) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            for part in wire.chunks(step) {
                decoder.buffer().extend_from_slice(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    decoded.push(frame);
                }
            }
            decoder.finish().unwrap();
            prop_assert_eq!(decoded, frames);
        }

        #[test]
        fn decoding_any_bytes_returns_no_more_than_it_received(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            let mut total = 0;
            while let Ok(Some(frame)) = decoder.next_frame() {
                total += HEADER_LEN + match frame { Frame::Control(p) | Frame::Data(_, p) => p.len() };
            }
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_rejected_before_the_payload_arrives() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 2]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_message_over_its_own_limit_is_rejected() {
        let frame = Frame::control(&"1234").unwrap();
        assert_eq!(frame.parse_within::<String>(6).unwrap(), "1234");
        assert!(matches!(frame.parse_within::<String>(5), Err(FrameError::TooLong { length: 6, limit: 5 })));
    }

    #[test]
    fn data_over_the_limit_is_split_into_several_frames() {
        let mut wire = BytesMut::new();
        Frame::Data(Stream::Stdout, vec![7; MAX_DATA + 1].into()).encode(&mut wire);
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&wire);
        let sizes: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap())
            .map(|frame| if let Frame::Data(_, bytes) = frame { bytes.len() } else { 0 })
            .collect();
        assert_eq!(sizes, [MAX_DATA, 1]);
    }

    #[test]
    fn an_incomplete_frame_is_reported_as_truncated() {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&[0, 0, 0, 9, 0, b'{']);
        assert_eq!(decoder.next_frame().unwrap(), None);
        assert!(matches!(decoder.finish(), Err(FrameError::Truncated)));
    }
}
