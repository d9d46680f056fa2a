//! A minimal registry, in which a test can replace any response.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::images::{Image, MANIFEST, lock};

/// A request. Its body is read only if it has a length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Returns the first byte of the requested range.
    pub(crate) fn start(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut input = BufReader::new(stream);
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let mut request =
            Self { method: words.next()?.to_owned(), path: words.next()?.to_owned(), ..Self::default() };
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            request.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut input, &mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
        Some(request)
    }
}

/// The response on one connection.
pub(crate) struct Answer {
    stream: TcpStream,
}

impl Answer {
    /// Sends `bytes` unchanged.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // The client may have closed the connection, which is fine.
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn head(&mut self, status: u16, headers: &[(&str, &str)]) {
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        self.raw((head + "\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let length = body.len().to_string();
        self.head(status, &[headers, &[("Content-Length", &*length)]].concat());
        self.raw(body);
    }

    /// Sends `bytes` from `start` on, as a registry that supports ranges does.
    pub(crate) fn part(&mut self, start: usize, bytes: &[u8], cut: usize) {
        let length = (bytes.len() - start).to_string();
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        match start {
            0 => self.head(200, &[("Content-Length", &length)]),
            _ => self.head(206, &[("Content-Length", &length), ("Content-Range", &range)]),
        }
        self.raw(&bytes[start..cut.max(start)]);
    }

    /// Waits until the client closes the connection.
    pub(crate) fn stall(&mut self) {
        let _ = std::io::Read::read(&mut self.stream, &mut [0; 1]);
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self) {
        let linger = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.stream, linger).unwrap();
    }
}

type Handler = dyn Fn(&Request, &mut Answer) -> bool + Send + Sync;

/// A server on its own port, which runs until it is dropped.
pub(crate) struct Server {
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    address: std::net::SocketAddr,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Server {
    /// Calls `fault` for each request. If it returns false, serves `image` under any name and tag.
    pub(crate) fn new(
        image: &Image,
        fault: impl Fn(&Request, &mut Answer) -> bool + Send + Sync + 'static,
    ) -> Self {
        let image = image.clone();
        Self::start(Arc::new(move |request: &Request, answer: &mut Answer| {
            if !fault(request, answer) {
                serve(&image, request, answer);
            }
            true
        }))
    }

    fn start(handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (requests, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (handler, requests) = (Arc::clone(&handler), Arc::clone(&requests));
                thread::spawn(move || {
                    let Some(request) = Request::read(&stream) else { return };
                    lock(&requests).push(request.clone());
                    let mut answer = Answer { stream };
                    handler(&request, &mut answer);
                    let _ = answer.stream.shutdown(Shutdown::Write);
                });
            }
        });
        Self { host: address.to_string(), seen, address, stop }
    }

    /// Returns all requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        lock(&self.seen).clone()
    }

    /// Returns where requests for the layer `bytes` started.
    pub(crate) fn starts(&self, bytes: &[u8]) -> Vec<usize> {
        let hex = crate::images::sha256(bytes).hex();
        self.seen().iter().filter(|request| request.path.ends_with(&hex)).map(Request::start).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers as a correct registry does.
pub(crate) fn serve(image: &Image, request: &Request, answer: &mut Answer) {
    let digest = image.digest().to_string();
    let manifest = [("Content-Type", MANIFEST), ("Docker-Content-Digest", &*digest)];
    match (request.method.as_str(), request.path.rsplit_once('/')) {
        ("HEAD", _) => answer.head(200, &manifest),
        (_, Some((before, _))) if before.ends_with("/manifests") => {
            answer.send(200, &manifest, &image.manifest);
        }
        (_, Some((_, name))) => match name.parse().ok().and_then(|digest| image.blobs().remove(&digest)) {
            Some(bytes) => answer.part(request.start(), &bytes, bytes.len()),
            None => answer.send(404, &[], b"{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}"),
        },
        _ => answer.send(404, &[], b""),
    }
}
