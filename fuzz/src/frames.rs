//! Decodes frames from a guest: the decoded frames encode to the same bytes. The first byte is the size of the chunks.

use banger_proto::{Decoder, ExecControl, Greeting, Reply, Request};
use bytes::BytesMut;

pub(crate) fn run(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else { return };
    let mut decoder = Decoder::default();
    let mut again = BytesMut::new();
    for part in bytes.chunks(usize::from(*step).max(1)) {
        decoder.buffer().extend_from_slice(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    let _ = frame.parse::<Greeting>();
                    let _ = frame.parse::<Request>();
                    let _ = frame.parse::<Reply>();
                    let _ = frame.parse::<ExecControl>();
                    frame.encode(&mut again);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(bytes.starts_with(&again));
}
