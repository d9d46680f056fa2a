//! QMP, QEMU's control protocol: JSON, one message per line (QEMU, docs/interop/qmp-spec.rst).

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::VmmError;

/// Timeout for one command with the greeting. QEMU executes late commands anyway, so only a hung QEMU exceeds it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum length of a line, in bytes; QEMU's greeting has some 200.
const LINE_MAX: u64 = 64 << 10;

/// Maximum number of events before an answer.
const EVENTS_MAX: usize = 100;

struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// Executes `command` in the QEMU at `control`. Its return value is ignored.
pub(super) async fn execute(control: &Path, command: Value) -> Result<(), VmmError> {
    let executed = async {
        let stream = UnixStream::connect(control).await;
        let stream = stream.map_err(|source| VmmError::Socket { path: control.to_owned(), source })?;
        let (reader, writer) = stream.into_split();
        let mut qmp = Qmp { reader: BufReader::new(reader), writer };
        let greeting = qmp.line().await?;
        if greeting.get("QMP").is_none() {
            return Err(protocol(greeting.to_string()));
        }
        qmp.command(&json!({ "execute": "qmp_capabilities" })).await?;
        qmp.command(&command).await
    };
    let timed_out = |_| VmmError::Timeout { what: "qemu".to_owned(), limit: COMMAND_TIMEOUT };
    timeout(COMMAND_TIMEOUT, executed).await.map_err(timed_out)?
}

impl Qmp {
    async fn command(&mut self, command: &Value) -> Result<(), VmmError> {
        self.writer
            .write_all(format!("{command}\n").as_bytes())
            .await
            .map_err(|error| protocol(error.to_string()))?;
        for _ in 0..EVENTS_MAX {
            let answer = self.line().await?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if answer.get("event").is_none() {
                return Err(protocol(answer.to_string()));
            }
        }
        Err(protocol("too many events before the answer".to_owned()))
    }

    async fn line(&mut self) -> Result<Value, VmmError> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(LINE_MAX).read_until(b'\n', &mut line).await;
        read.map_err(|error| protocol(error.to_string()))?;
        serde_json::from_slice(&line)
            .map_err(|_| protocol(String::from_utf8_lossy(&line).chars().take(200).collect()))
    }
}

fn protocol(answer: String) -> VmmError {
    VmmError::Protocol { what: "qemu", answer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn execute_against(lines: &'static str) -> Result<(), VmmError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            writer.write_all(lines.as_bytes()).await.unwrap();
            drop(writer);
            // Wait until the client is done.
            let _ = reader.read_to_end(&mut Vec::new()).await;
        });
        let result = execute(&path, json!({ "execute": "query-status" })).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn a_command_succeeds_with_events_before_its_answer() {
        // The exact lines of QEMU 7.2.
        execute_against(concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#,
            "\r\n{\"return\": {}}\r\n",
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#,
            "\r\n{\"return\": {\"status\": \"running\", \"running\": true}}\r\n",
        ))
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn invalid_answers_are_errors() {
        for lines in ["", "hello\n", "{}\n", "{\"QMP\": {}}\n{\"error\": {\"class\": \"CommandNotFound\"}}\n"]
        {
            assert!(matches!(execute_against(lines).await, Err(VmmError::Protocol { .. })), "{lines}");
        }
    }
}
