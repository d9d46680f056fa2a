//! One file from a URL, whose digest is known beforehand: resumed where it was cut, and of use only once it is whole.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use banger_api::Digest;
use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::oci::{Driver, Registries, RegistryError, Timing, Tries};
use crate::publish::write_error;
use crate::{ImageError, Progress};

/// Bytes between two reports, and the least that makes a broken transfer one that advances.
const STEP: u64 = 1 << 20;

/// Downloads `url` into the empty file `out`, at most `limit` bytes, and checks it against `digest`.
///
/// A transfer that breaks is taken up again where it broke, a few times. A proxy comes from the environment.
///
/// # Errors
/// When it cannot be had, is too long or has another digest; what is in `out` is then not to be used.
pub(crate) fn file(
    url: &str,
    digest: Digest,
    limit: u64,
    out: &File,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    file_within(Timing::default(), url, digest, limit, out, progress)
}

fn file_within(
    timing: Timing,
    url: &str,
    digest: Digest,
    limit: u64,
    out: &File,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let failed = |source| ImageError::Download { url: url.to_owned(), source: Box::new(source) };
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let host = parsed.as_ref().and_then(Url::host_str).unwrap_or_default().to_owned();
    let no_url =
        || RegistryError::Answer { host: url.to_owned(), problem: "it is no URL of http".to_owned() };
    let parsed = parsed.ok_or_else(|| failed(no_url()))?;
    let registries = Registries { timing, ..Registries::default() };
    let client = registries.route(&host).client().map_err(failed)?;
    let mut download = Download {
        url: parsed,
        host,
        client,
        timing,
        digest,
        limit,
        out,
        progress,
        hash: Sha256::new(),
        length: 0,
        resumed: false,
    };
    let work = async {
        let mut tries = Tries::new(timing.back_off);
        loop {
            let before = download.length;
            match download.transfer().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Local(error)) => return Err(error),
                Err(Trouble::Remote(RegistryError::WrongDigest { .. })) if download.resumed => {
                    progress.log("what came in parts does not fit together: starting over");
                    download.restart()?;
                }
                Err(Trouble::Remote(error)) => {
                    if download.length >= before + STEP {
                        tries.reset();
                    }
                    tries.again(error, progress).await.map_err(failed)?;
                }
            }
        }
    };
    Driver::new()?.run(|| progress.cancelled(), work).unwrap_or(Err(ImageError::Cancelled))
}

struct Download<'a> {
    url: Url,
    host: String,
    client: Client,
    timing: Timing,
    digest: Digest,
    limit: u64,
    out: &'a File,
    progress: &'a dyn Progress,
    /// Of what is in the file, and how much that is.
    hash: Sha256,
    length: u64,
    /// Whether that came from more than one answer.
    resumed: bool,
}

/// Why a transfer ended.
enum Trouble {
    Remote(RegistryError),
    Local(ImageError),
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Remote(error)
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Local(error)
    }
}

impl Download<'_> {
    /// Gets what is missing, and checks the whole.
    async fn transfer(&mut self) -> Result<(), Trouble> {
        let request = self.client.get(self.url.clone());
        let request = match self.length {
            0 => request,
            from => request.header(RANGE, format!("bytes={from}-")),
        };
        let mut response = self.within(request.send()).await?;
        self.place(&response)?;
        let total = response.content_length().and_then(|length| length.checked_add(self.length));
        self.fits(total.unwrap_or_default())?;
        let mut reported = None;
        loop {
            let chunk = self.within(response.chunk()).await.map_err(|error| match (error, total) {
                (RegistryError::Unreachable { .. }, Some(size)) => self.cut(size),
                (error, _) => error,
            })?;
            let Some(chunk) = chunk else { break };
            self.fits(self.length + chunk.len() as u64)?;
            self.write(&chunk)?;
            if reported.is_none_or(|reported| self.length >= reported + STEP) {
                reported = Some(self.length);
                self.progress.bytes(self.length, total);
            }
        }
        self.progress.bytes(self.length, total);
        let found = Digest::sha256(self.hash.clone().finalize().into());
        if found == self.digest {
            return Ok(());
        }
        Err(RegistryError::WrongDigest { host: self.host.clone(), expected: self.digest, found }.into())
    }

    /// Sees where in the file an answer begins, which has to be where what is there ends.
    fn place(&mut self, response: &Response) -> Result<(), Trouble> {
        let host = self.host.clone();
        let answer =
            |problem: &str| RegistryError::Answer { host: host.clone(), problem: problem.to_owned() };
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
                    Err(answer("it sends another part than it was asked for").into())
                }
            }
            // There is nothing after what is there, which was not whole: it has become another file.
            StatusCode::RANGE_NOT_SATISFIABLE if self.length > 0 => {
                let size = self.length;
                self.restart()?;
                Err(self.cut(size).into())
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

    fn cut(&self, size: u64) -> RegistryError {
        RegistryError::Cut { host: self.host.clone(), digest: self.digest, done: self.length, size }
    }

    fn fits(&self, length: u64) -> Result<(), RegistryError> {
        if length <= self.limit {
            return Ok(());
        }
        Err(RegistryError::TooLong { host: self.host.clone(), what: "the file", limit: self.limit })
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, RegistryError> {
        let limit = self.timing.idle;
        match timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| RegistryError::of_request(&self.host, limit, &error)),
            Err(_) => Err(RegistryError::Stalled { host: self.host.clone(), limit }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut out = self.out;
        out.write_all(bytes).map_err(|error| unwritten(error, bytes.len() as u64))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), ImageError> {
        let mut out = self.out;
        out.set_len(0).and_then(|()| out.rewind()).map_err(|error| unwritten(error, 0))?;
        self.hash = Sha256::new();
        self.length = 0;
        self.resumed = false;
        Ok(())
    }
}

fn unwritten(error: io::Error, needed: u64) -> ImageError {
    write_error(error, Path::new("the downloaded file"), needed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailureKind, Silent};
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    /// For a server that answers at once, and one that never will.
    const PATIENT: Duration = Duration::from_secs(30);
    const IMPATIENT: Duration = Duration::from_millis(50);

    /// Where a request wants to begin, and its connection.
    type Request = (Option<u64>, TcpStream);
    type Answer = Box<dyn FnOnce(Request) + Send>;

    /// A server that answers one request after another by one of `answers` each, and what a download from it ends in.
    fn download(content: &[u8], limit: u64, answers: Vec<Answer>) -> Result<Vec<u8>, ImageError> {
        download_within(PATIENT, content, limit, answers)
    }

    fn download_within(
        idle: Duration,
        content: &[u8],
        limit: u64,
        answers: Vec<Answer>,
    ) -> Result<Vec<u8>, ImageError> {
        let timing = Timing { connect: PATIENT, idle, back_off: Duration::from_millis(1) };
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
        let mut out = tempfile::tempfile().unwrap();
        let digest = Digest::sha256(Sha256::digest(content).into());
        let result = file_within(timing, &url, digest, limit, &out, &Silent);
        server.join().unwrap();
        result.map(|()| {
            let mut bytes = Vec::new();
            out.rewind().unwrap();
            out.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }

    /// An answer of this status that says it has `length` bytes, and sends `body`.
    fn answer(status: &str, range: &str, length: usize, body: &[u8]) -> Answer {
        let head =
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{range}\r\n");
        let bytes = [head.as_bytes(), body].concat();
        Box::new(move |(_, mut stream)| {
            // Whoever has enough hangs up.
            let _ = stream.write_all(&bytes);
        })
    }

    fn content() -> Vec<u8> {
        (0..500_000u32).flat_map(u32::to_le_bytes).collect()
    }

    fn whole(bytes: &[u8]) -> Answer {
        answer("200 OK", "", bytes.len(), bytes)
    }

    /// All from where it was asked for.
    fn rest(bytes: Vec<u8>) -> Answer {
        Box::new(move |(from, stream)| {
            let at = usize::try_from(from.unwrap()).unwrap();
            assert!(at > 0);
            let range = format!("content-range: bytes {at}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            answer("206 Partial Content", &range, bytes.len() - at, &bytes[at..])((from, stream));
        })
    }

    fn cut(bytes: &[u8], at: usize) -> Answer {
        answer("200 OK", "", bytes.len(), &bytes[..at])
    }

    #[test]
    fn a_transfer_that_breaks_is_taken_up_where_it_broke() {
        let content = content();
        assert!(download(&content, 1 << 30, vec![whole(&content)]).unwrap() == content);
        let answers = vec![
            answer("503 Service Unavailable", "", 0, b""),
            cut(&content, 1_000_000),
            rest(content.clone()),
        ];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
        // A server that does not resume sends all of it again.
        let answers = vec![cut(&content, 1_000_000), whole(&content)];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
        let answers =
            vec![cut(&content, 1_000_000), answer("416 Range Not Satisfiable", "", 0, b""), whole(&content)];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
    }

    #[test]
    fn one_that_stands_still_is_given_up_and_tried_again() {
        let content = content();
        let half = content[..1_000_000].to_vec();
        let length = content.len();
        let stall = Box::new(move |(_, mut stream): Request| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &half].concat()).unwrap();
            // Until the client hangs up.
            let _ = stream.read(&mut [0; 1]);
        });
        let idle = Duration::from_secs(2);
        let answers = vec![stall as Answer, rest(content.clone())];
        assert!(download_within(idle, &content, 1 << 30, answers).unwrap() == content);
        let mute = || -> Answer {
            Box::new(|(_, mut stream)| {
                let _ = stream.read(&mut [0; 1]);
            })
        };
        let error = download_within(IMPATIENT, &content, 1 << 30, (0..5).map(|_| mute()).collect());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Timeout, "{error:?}");
    }

    #[test]
    fn parts_that_do_not_fit_together_are_fetched_anew() {
        let content = content();
        let other: Vec<u8> = content.iter().map(|byte| !byte).collect();
        let answers = vec![cut(&other, 1_000_000), rest(content.clone()), whole(&content)];
        assert!(download(&content, 1 << 30, answers).unwrap() == content);
    }

    #[test]
    fn what_cannot_be_had_is_told() {
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
            (1 << 30, whole(b"something else"), FailureKind::Invalid, |error| {
                matches!(error, RegistryError::WrongDigest { .. })
            }),
            // By its length, and without one.
            (1000, whole(&content), FailureKind::Invalid, |error| {
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
        let digest = Digest::sha256([0; 32]);
        let out = tempfile::tempfile().unwrap();
        let error = file("ftp://127.0.0.1/x", digest, 10, &out, &Silent).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Invalid);
    }
}
