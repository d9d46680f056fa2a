//! Bytes from a guest, in pieces: frames or an error, and what is decoded encodes to the bytes that came.
#![no_main]

use banger_proto::{Decoder, ExecControl, Greeting, Reply, Request};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (step, bytes) = input;
    let mut decoder = Decoder::default();
    let mut again = BytesMut::new();
    for part in bytes.chunks(usize::from(step).max(1)) {
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
});
