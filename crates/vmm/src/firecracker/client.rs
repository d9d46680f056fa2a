//! A client of Firecracker's API: one request per connection, over a Unix socket.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, time::timeout};

use crate::VmmError;

/// Timeout for a request. Firecracker answers in under a millisecond and executes a late request anyway, so only a
/// hung one exceeds this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a response, in bytes.
const ANSWER_MAX: usize = 64 << 10;

#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

/// Sends a request, which must succeed. The response's content is ignored.
pub(super) async fn request(
    control: &Path,
    method: &'static str,
    path: &'static str,
    body: Option<&'static str>,
) -> Result<(), VmmError> {
    let exchange = async {
        let stream = UnixStream::connect(control).await;
        let stream = stream.map_err(|source| VmmError::Socket { path: control.to_owned(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(protocol_error)?;
        // The connection ends with its sender.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(body.unwrap_or_default().as_bytes())))
            .map_err(protocol_error)?;
        let response = sender.send_request(request).await.map_err(protocol_error)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let answer = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(protocol_error)?
            .to_bytes();
        let fault = serde_json::from_slice::<Fault>(&answer)
            .map_or_else(|_| String::from_utf8_lossy(&answer).into_owned(), |fault| fault.fault_message);
        Err(VmmError::Api { method, path, status: status.as_u16(), fault })
    };
    let timed_out =
        |_| VmmError::Timeout { what: format!("firecracker's {method} {path}"), limit: REQUEST_TIMEOUT };
    timeout(REQUEST_TIMEOUT, exchange).await.map_err(timed_out)?
}

fn protocol_error(error: impl std::fmt::Display) -> VmmError {
    VmmError::Protocol { what: "firecracker's API", answer: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    async fn request_with_answer(answer: &'static str) -> Result<(), VmmError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            assert!(request[..count].starts_with(b"PUT /actions HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        request(&path, "PUT", "/actions", Some("{}")).await
    }

    #[tokio::test]
    async fn responses_of_firecracker_are_parsed() {
        // The exact responses of Firecracker 1.12.1.
        request_with_answer(
            "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
        )
        .await
        .unwrap();
        let refused = request_with_answer(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n\
             {\"fault_message\":\"no such action type\"}\n",
        );
        let error = refused.await.unwrap_err().to_string();
        assert_eq!(error, "firecracker refused PUT /actions with 400: no such action type");
    }

    #[tokio::test]
    async fn malformed_responses_are_errors() {
        assert!(matches!(
            request_with_answer("SSH-2.0-OpenSSH\r\n\r\n").await,
            Err(VmmError::Protocol { .. })
        ));
        assert!(matches!(request_with_answer("").await, Err(VmmError::Protocol { .. })));
    }
}
