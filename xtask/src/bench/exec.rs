//! Runs a command over the agent's protocol without banger.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Vsock port on which the agent listens.
const AGENT_PORT: u32 = 1000;

/// Frame kind of messages; other kinds carry the bytes of a stream.
const CONTROL: u8 = 0;

/// Maximum length of a frame, in bytes; frames of this exchange are shorter.
const MAX_FRAME: u32 = 1 << 20;

/// Runs `true` in the guest behind this vsock, and returns the duration.
pub(super) fn raw(vsock: &Path) -> Result<Duration> {
    let start = Instant::now();
    let mut stream = UnixStream::connect(vsock).with_context(|| vsock.display().to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    reader.read_line(&mut answer)?;
    ensure!(answer.starts_with("OK "), "the vsock device answered {answer:?}");
    let greeting = read_message(&mut reader)?;
    ensure!(greeting["generation"].is_u64(), "the agent greeted with {greeting}");
    stream.write_all(&frame(&json!({ "op": "exec", "argv": ["true"] }))?)?;
    loop {
        let reply = read_message(&mut reader)?;
        match reply["reply"].as_str() {
            Some("exited") => return Ok(start.elapsed()),
            Some("started") => {}
            _ => bail!("the agent answered {reply}"),
        }
    }
}

fn frame(message: &Value) -> Result<Vec<u8>> {
    let payload = serde_json::to_vec(message)?;
    let mut frame = u32::try_from(payload.len())?.to_be_bytes().to_vec();
    frame.push(CONTROL);
    frame.extend(payload);
    Ok(frame)
}

/// Returns the next message and skips the command's output.
fn read_message(reader: &mut impl Read) -> Result<Value> {
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        ensure!(length <= MAX_FRAME, "a frame of {length} bytes is too long");
        let mut rest = vec![0; usize::try_from(length)? + 1];
        reader.read_exact(&mut rest)?;
        if let Some((&CONTROL, payload)) = rest.split_first() {
            return Ok(serde_json::from_slice(payload)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_message_skips_stream_frames() {
        let mut wire = vec![0, 0, 0, 2, 2, b'h', b'i'];
        wire.extend(frame(&json!({ "reply": "exited" })).unwrap());
        assert_eq!(read_message(&mut wire.as_slice()).unwrap(), json!({ "reply": "exited" }));
    }
}
