//! A registry on the loopback interface that serves one image under every name.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fixtures;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image with one layer.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    manifest: Vec<u8>,
    blobs: [Vec<u8>; 2],
}

impl Image {
    /// Returns an image with this file.
    pub(crate) fn with(name: &str, content: &str) -> Result<Self> {
        let layer = fixtures::tar(&[(name, content.as_bytes())])?;
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)],
        });
        Ok(Self { manifest: manifest.to_string().into_bytes(), blobs: [config, layer] })
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The registry. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Registry {
    address: SocketAddr,
    image: Arc<Mutex<Image>>,
}

impl Registry {
    pub(crate) fn start(image: Image) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let image = Arc::new(Mutex::new(image));
        let served = image.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let image = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A killed daemon disconnects early.
                thread::spawn(move || drop(answer(&image, &stream)));
            }
        });
        Ok(Self { address, image })
    }

    /// Moves the tag to another image.
    pub(crate) fn serve(&self, image: Image) {
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = image;
    }

    /// Returns the image's name.
    pub(crate) fn image(&self) -> String {
        format!("{}/box:1", self.address)
    }
}

fn answer(image: &Image, mut stream: &TcpStream) -> Result<()> {
    let mut input = BufReader::new(stream);
    let mut request = String::new();
    input.read_line(&mut request)?;
    let mut header = String::new();
    while input.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let name = path.rsplit('/').next().unwrap_or_default();
    let blob = image.blobs.iter().find(|blob| digest(blob) == name);
    let (status, body) = match blob {
        _ if path.contains("/manifests/") => ("200 OK", &image.manifest),
        Some(blob) => ("200 OK", blob),
        None => ("404 Not Found", &Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {MANIFEST}\r\nDocker-Content-Digest: {}\r\n\
         Content-Length: {}\r\n\r\n",
        digest(body),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Wait until the client disconnects.
    Ok(input.read_to_end(&mut Vec::new()).map(drop)?)
}
