//! Downloads one file from a URL. Broken transfers are resumed, and only a complete file is returned.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use banger_api::Digest;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::error::IoContext;
use crate::oci::{Driver, Registries, RegistryError, Retries, Timing};
use crate::publish::{require_space, write_error};
use crate::{ImageError, Progress};

/// Bytes between two progress reports, and the progress after which a broken transfer resets the retry count.
const STEP: u64 = 1 << 20;

/// A file to download.
#[derive(Debug, Clone, Copy)]
pub struct DownloadRequest<'a> {
    /// The file's URL.
    pub url: &'a str,
    /// Digest of the whole file, if known.
    pub sha256: Option<Digest>,
    /// Maximum size in bytes.
    pub limit: u64,
}

/// Downloads `request` into an unnamed file in the given directory, and returns it, rewound to its start.
///
/// A broken transfer is resumed a few times. The environment sets the proxy. `registries` sets CAs and the hosts that
/// may use plain HTTP; loopback hosts without a CA may use it too.
///
/// # Errors
/// Returns an error if the URL is not allowed; if the file is unavailable, too long or has another digest; if
/// `progress` cancels.
pub fn download(
    registries: &Registries,
    request: DownloadRequest<'_>,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<File, ImageError> {
    let url = parse(registries, request.url)?;
    let out = tempfile::tempfile_in(dir).during("create a temporary file in", dir)?;
    let display_url = display_url(&url);
    let failed = |source| ImageError::Download { url: display_url.clone(), source: Box::new(source) };
    let host = authority(&url);
    let client = registries.route(&host).client().map_err(failed)?;
    let timing = registries.timing;
    let mut download = Download {
        url,
        host,
        client,
        timing,
        request,
        dir,
        out: &out,
        progress,
        hash: Sha256::new(),
        length: 0,
        resumed: false,
        etag: None,
    };
    let work = async {
        let mut retries = Retries::new(timing.back_off);
        loop {
            let before = download.length;
            match download.transfer().await {
                Ok(()) => return Ok(()),
                Err(TransferError::Local(error)) => return Err(error),
                Err(TransferError::Remote(RegistryError::WrongDigest { .. })) if download.resumed => {
                    progress.log("the parts of the download do not match: starting over");
                    download.restart()?;
                }
                Err(TransferError::Remote(error)) => {
                    if download.length >= before + STEP {
                        retries.reset();
                    }
                    retries.wait(error, progress).await.map_err(failed)?;
                }
            }
        }
    };
    Driver::new()?.run(|| progress.cancelled(), work).unwrap_or(Err(ImageError::Cancelled))?;
    (&out).rewind().during("read back the temporary file in", dir)?;
    Ok(out)
}

/// Parses a URL, and rejects URLs that banger must not download from.
pub(crate) fn parse(registries: &Registries, text: &str) -> Result<Url, ImageError> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else {
        return Err(ImageError::Url { url: text.to_owned(), problem: "it is not an https or http URL" });
    };
    let refused = |problem| Err(ImageError::Url { url: display_url(&url), problem });
    if !url.username().is_empty() || url.password().is_some() {
        return refused("the URL must not contain a user or a password");
    }
    if url.scheme() == "http" && !registries.route(&authority(&url)).allows_http() {
        return refused(
            "plain HTTP is not allowed for this host: no [[registry]] in config.toml sets plain_http for it",
        );
    }
    Ok(url)
}

/// Returns the host, with its port if that is not the default.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Formats a URL for messages, without parts that may be secret.
pub(crate) fn display_url(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

struct Download<'a> {
    url: Url,
    host: String,
    client: Client,
    timing: Timing,
    request: DownloadRequest<'a>,
    dir: &'a Path,
    out: &'a File,
    progress: &'a dyn Progress,
    /// Hash of the bytes in the file; `length` is their number.
    hash: Sha256,
    length: u64,
    /// Whether the bytes came from more than one response.
    resumed: bool,
    /// The response's ETag, if it is strong: then the server promises identical bytes.
    etag: Option<HeaderValue>,
}

/// Reason why a transfer ended.
enum TransferError {
    Remote(RegistryError),
    Local(ImageError),
}

impl From<RegistryError> for TransferError {
    fn from(error: RegistryError) -> Self {
        Self::Remote(error)
    }
}

impl From<ImageError> for TransferError {
    fn from(error: ImageError) -> Self {
        Self::Local(error)
    }
}

impl Download<'_> {
    /// Requests the missing bytes and verifies the complete file.
    async fn transfer(&mut self) -> Result<(), TransferError> {
        if self.request.sha256.is_none() && self.etag.is_none() {
            // Without a digest or an ETag, a mix of two versions of the file would go unnoticed.
            self.restart()?;
        }
        let mut request = self.client.get(self.url.clone());
        if self.length > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.length));
            if let Some(etag) = &self.etag {
                request = request.header(IF_RANGE, etag);
            }
        }
        let mut response = self.with_timeout(request.send()).await?;
        self.check_range(&response)?;
        if response.status() == StatusCode::OK {
            let etag = response.headers().get(ETAG).cloned();
            self.etag = etag.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        }
        let total = response.content_length().and_then(|length| length.checked_add(self.length));
        self.check_length(total.unwrap_or_default())?;
        require_space(self.dir, response.content_length().unwrap_or_default())?;
        let mut reported = None;
        loop {
            let chunk = self.with_timeout(response.chunk()).await.map_err(|error| match (error, total) {
                (RegistryError::Unreachable { .. }, Some(size)) => self.interrupted(size),
                (error, _) => error,
            })?;
            let Some(chunk) = chunk else { break };
            self.check_length(self.length + chunk.len() as u64)?;
            self.write(&chunk)?;
            if reported.is_none_or(|reported| self.length >= reported + STEP) {
                reported = Some(self.length);
                self.progress.bytes(self.length, total);
            }
        }
        self.progress.bytes(self.length, total);
        let found = Digest::sha256(self.hash.clone().finalize().into());
        match self.request.sha256 {
            Some(expected) if expected != found => {
                Err(RegistryError::WrongDigest { host: self.host.clone(), expected, found }.into())
            }
            _ => Ok(()),
        }
    }

    /// Checks where in the file a response starts. Starts over if it is the whole file.
    fn check_range(&mut self, response: &Response) -> Result<(), TransferError> {
        let host = self.host.clone();
        let invalid_response = |problem: &str| RegistryError::InvalidResponse {
            host: host.clone(),
            problem: problem.to_owned(),
        };
        match response.status() {
            StatusCode::OK if self.length == 0 => Ok(()),
            StatusCode::OK => Ok(self.restart()?),
            StatusCode::PARTIAL_CONTENT if self.length > 0 => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let continues =
                    range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.length)));
                self.resumed = true;
                if continues {
                    Ok(())
                } else {
                    Err(invalid_response("it sent a different part than requested").into())
                }
            }
            // The server has no bytes after the incomplete copy, so its file has changed.
            StatusCode::RANGE_NOT_SATISFIABLE if self.length > 0 => {
                let size = self.length;
                self.restart()?;
                Err(self.interrupted(size).into())
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                let what = self.url.path().to_owned();
                Err(RegistryError::NotFound { host, what, message: String::new() }.into())
            }
            status => {
                let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = retry_after.and_then(|value| value.parse().ok());
                let retry_after = retry_after.map(std::time::Duration::from_secs);
                let status = status.as_u16();
                Err(RegistryError::Status { host, status, message: String::new(), retry_after }.into())
            }
        }
    }

    fn interrupted(&self, size: u64) -> RegistryError {
        let (host, what) = (self.host.clone(), "the file".to_owned());
        RegistryError::Interrupted { host, what, done: self.length, size }
    }

    fn check_length(&self, length: u64) -> Result<(), RegistryError> {
        if length <= self.request.limit {
            return Ok(());
        }
        Err(RegistryError::TooLong { host: self.host.clone(), what: "the file", limit: self.request.limit })
    }

    async fn with_timeout<T>(
        &self,
        request: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, RegistryError> {
        let limit = self.timing.idle;
        match timeout(limit, request).await {
            Ok(result) => result.map_err(|error| RegistryError::from_request(&self.host, limit, &error)),
            Err(_) => Err(RegistryError::Timeout { host: self.host.clone(), limit }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut out = self.out;
        out.write_all(bytes).map_err(|error| output_error(error, bytes.len() as u64))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), ImageError> {
        let mut out = self.out;
        out.set_len(0).and_then(|()| out.rewind()).map_err(|error| output_error(error, 0))?;
        self.hash = Sha256::new();
        self.length = 0;
        self.resumed = false;
        Ok(())
    }
}

fn output_error(error: io::Error, needed: u64) -> ImageError {
    write_error(error, Path::new("the downloaded file"), needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailureKind, RegistryHost, Silent};
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    /// Timeouts for a server that answers at once, and for a server that never does.
    const LONG_TIMEOUT: Duration = Duration::from_secs(30);
    const SHORT_TIMEOUT: Duration = Duration::from_millis(50);

    /// First byte requested, and the connection.
    type Request = (Option<u64>, TcpStream);
    type Answer = Box<dyn FnOnce(Request) + Send>;

    /// Downloads from a server that answers each request with the next of `answers`, and returns the result.
    fn download(content: &[u8], limit: u64, answers: Vec<Answer>) -> Result<Vec<u8>, ImageError> {
        download_with_timeout(LONG_TIMEOUT, content, limit, answers)
    }

    fn download_with_timeout(
        idle: Duration,
        content: &[u8],
        limit: u64,
        answers: Vec<Answer>,
    ) -> Result<Vec<u8>, ImageError> {
        let sha256 = Digest::sha256(Sha256::digest(content).into());
        download_with_digest(Some(sha256), idle, limit, answers)
    }

    fn download_with_digest(
        sha256: Option<Digest>,
        idle: Duration,
        limit: u64,
        answers: Vec<Answer>,
    ) -> Result<Vec<u8>, ImageError> {
        let timing = Timing { connect: LONG_TIMEOUT, idle, back_off: Duration::from_millis(1) };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/vmlinux", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut from = None;
                for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
                    if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().ok();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                answer((from, stream));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let registries = Registries { timing, ..Registries::default() };
        let result =
            super::download(&registries, DownloadRequest { url: &url, sha256, limit }, dir.path(), &Silent);
        server.join().unwrap();
        result.map(|mut out| {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }

    /// A response with this status, the header lines `more`, a content length of `length`, and the body `body`.
    fn answer(status: &str, more: &str, length: usize, body: &[u8]) -> Answer {
        let head =
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n");
        let bytes = [head.as_bytes(), body].concat();
        Box::new(move |(_, mut stream)| {
            // The client may close the connection early.
            let _ = stream.write_all(&bytes);
        })
    }

    fn content() -> Vec<u8> {
        (0..500_000u32).flat_map(u32::to_le_bytes).collect()
    }

    fn full_response(bytes: &[u8]) -> Answer {
        answer("200 OK", "", bytes.len(), bytes)
    }

    /// A partial response from the requested byte to the end.
    fn partial_response(bytes: Vec<u8>) -> Answer {
        Box::new(move |(from, stream)| {
            let at = usize::try_from(from.unwrap()).unwrap();
            assert!(at > 0);
            let range = format!("content-range: bytes {at}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            answer("206 Partial Content", &range, bytes.len() - at, &bytes[at..])((from, stream));
        })
    }

    fn interrupted_response(bytes: &[u8], at: usize) -> Answer {
        answer("200 OK", "", bytes.len(), &bytes[..at])
    }

    #[test]
    fn interrupted_transfers_are_resumed_or_restarted() {
        let content = content();
        assert!(download(&content, 1 << 30, vec![full_response(&content)]).unwrap() == content);
        let answers = vec![
            answer("503 Service Unavailable", "", 0, b""),
            interrupted_response(&content, 1_000_000),
            partial_response(content.clone()),
        ];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
        // A server that does not support ranges sends the whole file again.
        let answers = vec![interrupted_response(&content, 1_000_000), full_response(&content)];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
        let answers = vec![
            interrupted_response(&content, 1_000_000),
            answer("416 Range Not Satisfiable", "", 0, b""),
            full_response(&content),
        ];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
    }

    #[test]
    fn stalled_transfers_time_out_and_are_retried() {
        let content = content();
        let half = content[..1_000_000].to_vec();
        let length = content.len();
        let stall = Box::new(move |(_, mut stream): Request| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &half].concat()).unwrap();
            // Wait until the client closes the connection.
            let _ = stream.read(&mut [0; 1]);
        });
        let idle = Duration::from_secs(2);
        let answers = vec![stall as Answer, partial_response(content.clone())];
        assert!(download_with_timeout(idle, &content, 1 << 30, answers).unwrap() == content);
        let unanswered = || -> Answer {
            Box::new(|(_, mut stream)| {
                let _ = stream.read(&mut [0; 1]);
            })
        };
        let error =
            download_with_timeout(SHORT_TIMEOUT, &content, 1 << 30, (0..5).map(|_| unanswered()).collect());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Timeout, "{error:?}");
    }

    #[test]
    fn mismatched_parts_are_downloaded_again() {
        let content = content();
        let other: Vec<u8> = content.iter().map(|byte| !byte).collect();
        let answers = vec![
            interrupted_response(&other, 1_000_000),
            partial_response(content.clone()),
            full_response(&content),
        ];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
    }

    #[test]
    fn failed_downloads_report_the_reason() {
        let content = content();
        type Expected = fn(&RegistryError) -> bool;
        let cases: [(u64, Answer, FailureKind, Expected); 5] = [
            (
                1 << 30,
                answer("404 Not Found", "", 0, b""),
                FailureKind::NotFound,
                |error| matches!(error, RegistryError::NotFound { what, .. } if what == "/vmlinux"),
            ),
            (1 << 30, answer("403 Forbidden", "", 0, b""), FailureKind::Unreachable, |error| {
                matches!(error, RegistryError::Status { status: 403, .. })
            }),
            (1 << 30, full_response(b"something else"), FailureKind::Invalid, |error| {
                matches!(error, RegistryError::WrongDigest { .. })
            }),
            // With a content length, and without one.
            (1000, full_response(&content), FailureKind::Invalid, |error| {
                matches!(error, RegistryError::TooLong { limit: 1000, .. })
            }),
            (
                1000,
                Box::new(|(_, mut stream)| {
                    let _ = stream.write_all(&[&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[7; 5000]].concat());
                }),
                FailureKind::Invalid,
                |error| matches!(error, RegistryError::TooLong { .. }),
            ),
        ];
        for (limit, answer, kind, expected) in cases {
            let error = download(&content, limit, vec![answer]).unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(matches!(&error, ImageError::Download { source, .. } if expected(source)), "{error:?}");
        }
        let errors = (0..5).map(|_| answer("500 Internal Server Error", "", 0, b"")).collect();
        let error = download(&content, 1 << 30, errors).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Unreachable);
    }

    #[test]
    fn disallowed_urls_are_rejected() {
        let plain =
            RegistryHost { host: "10.0.0.1:8080".to_owned(), plain_http: true, ..RegistryHost::default() };
        let registries = Registries { hosts: vec![plain], ..Registries::default() };
        for (url, problem) in [
            ("https://a.test/x?y=z", None),
            ("http://127.0.0.1:1/x", None),
            ("http://localhost/x", None),
            ("http://[::1]:1/x", None),
            ("http://10.0.0.1:8080/x", None),
            ("http://10.0.0.1/x", Some("plain_http")),
            ("http://localhost.test/x", Some("plain_http")),
            ("ftp://127.0.0.1/x", Some("not an https or http URL")),
            ("/x", Some("not an https or http URL")),
            ("https://me:secret@a.test/x", Some("a user or a password")),
        ] {
            let error = parse(&registries, url).err().map(|error| error.to_string());
            let message = error.as_deref().unwrap_or_default();
            assert!(
                message.contains(problem.unwrap_or_default()) && !message.contains("secret"),
                "{url}: {message}"
            );
            assert_eq!(error.is_some(), problem.is_some(), "{url}: {message}");
        }
    }

    #[test]
    fn without_a_digest_only_a_strong_etag_permits_resuming() {
        let content = content();
        let first = |tag: &str| answer("200 OK", tag, content.len(), &content[..1_000_000]);
        let answers = vec![first("etag: \"a\"\r\n"), partial_response(content.clone())];
        assert!(download_with_digest(None, LONG_TIMEOUT, 1 << 30, answers).unwrap() == content);
        for tag in ["", "etag: W/\"a\"\r\n"] {
            let full: Answer = Box::new({
                let content = content.clone();
                move |(from, stream)| {
                    assert_eq!(from, None);
                    full_response(&content)((from, stream));
                }
            });
            let answers = vec![first(tag), full];
            assert!(download_with_digest(None, LONG_TIMEOUT, 1 << 30, answers).unwrap() == content);
        }
    }
}
