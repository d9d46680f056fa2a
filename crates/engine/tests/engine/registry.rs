//! A registry on the loopback interface that serves one image under every name.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    fixtures,
    http::{self, Answer},
};

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

/// The registry.
#[derive(Debug)]
pub(crate) struct Registry {
    address: SocketAddr,
    image: Arc<Mutex<Image>>,
}

impl Registry {
    pub(crate) fn start(image: Image) -> Result<Self> {
        let image = Arc::new(Mutex::new(image));
        let served = image.clone();
        let address = http::serve(move |path| {
            let image = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
            answer(&image, path)
        })?;
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

fn answer(image: &Image, path: &str) -> Answer {
    let name = path.rsplit('/').next().unwrap_or_default();
    let blob = image.blobs.iter().find(|blob| digest(blob) == name);
    let body = match blob {
        _ if path.contains("/manifests/") => &image.manifest,
        Some(blob) => blob,
        None => return Answer::not_found(),
    };
    let headers = format!("Content-Type: {MANIFEST}\r\nDocker-Content-Digest: {}\r\n", digest(body));
    Answer { status: "200 OK", headers, body: body.clone() }
}
