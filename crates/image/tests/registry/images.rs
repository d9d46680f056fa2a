//! Images to serve, and helpers to pull them.

use std::collections::HashMap;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use banger_api::{Credentials, Digest};
use banger_image::{
    Blobs, ImageError, Manifest, Progress, Registries, RegistryError, RegistryHost, Remote, Timing,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

/// Returns incompressible bytes, different for each `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// An image for linux/amd64.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Image {
    /// Creates an image from compressed layers, each with its media type and its tar's digest.
    pub(crate) fn new(layers: &[(Vec<u8>, &str, Digest)]) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, _, diff_id)| *diff_id).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": null, "WorkingDir": "/w", "User": ""},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let of = |media_type: &str, bytes: &[u8]| descriptor(media_type, bytes);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": of("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|(bytes, media_type, _)| of(media_type, bytes)).collect::<Vec<_>>(),
        });
        let layers = layers.iter().map(|(bytes, _, _)| bytes.clone()).collect();
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    /// Creates an image from arbitrary bytes as layers, which no test unpacks.
    pub(crate) fn of(layers: &[Vec<u8>]) -> Self {
        let plain = "application/vnd.oci.image.layer.v1.tar";
        Self::new(&layers.iter().map(|bytes| (bytes.clone(), plain, sha256(bytes))).collect::<Vec<_>>())
    }

    pub(crate) fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }

    /// Returns its blobs by digest.
    pub(crate) fn blobs(&self) -> HashMap<Digest, Vec<u8>> {
        self.layers.iter().chain([&self.config]).map(|bytes| (sha256(bytes), bytes.clone())).collect()
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// Records progress reports, and can cancel the pull.
#[derive(Default)]
pub(crate) struct RecordingProgress {
    log: Mutex<Vec<String>>,
    pub(crate) parts: Mutex<HashMap<String, (u64, u64)>>,
    pub(crate) sum: Mutex<(u64, u64)>,
    pub(crate) cancel: AtomicBool,
}

impl RecordingProgress {
    pub(crate) fn log(&self) -> String {
        lock(&self.log).join("\n")
    }
}

impl Progress for RecordingProgress {
    fn stage(&self, _: &str) {}
    fn bytes(&self, done: u64, total: Option<u64>) {
        *lock(&self.sum) = (done, total.unwrap());
    }
    fn part(&self, name: &str, done: u64, total: Option<u64>) {
        lock(&self.parts).insert(name.to_owned(), (done, total.unwrap()));
    }
    fn log(&self, line: &str) {
        lock(&self.log).push(line.to_owned());
    }
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Configures a registry at `host` without TLS and with short retry delays.
pub(crate) fn plain(host: &str) -> Registries {
    let host = RegistryHost { host: host.to_owned(), plain_http: true, ..RegistryHost::default() };
    Registries { hosts: vec![host], credentials: Vec::new(), timing: short_timing() }
}

pub(crate) fn short_timing() -> Timing {
    Timing {
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(20),
        back_off: Duration::from_millis(1),
    }
}

pub(crate) fn user(registry: &str, username: &str, secret: &str) -> Credentials {
    Credentials { registry: registry.to_owned(), username: username.to_owned(), secret: secret.to_owned() }
}

/// A cache to pull images into.
pub(crate) struct Cache {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) blobs: Blobs,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        Self { dir, blobs }
    }

    /// Returns names and sizes of the partial blobs.
    pub(crate) fn partial(&self) -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(self.dir.path().join("sha256")).unwrap();
        let entries = entries.map(|entry| entry.unwrap());
        let entries = entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len()));
        entries.filter(|(name, _)| name.contains("partial")).collect()
    }

    /// Returns the size of the partial blob of one layer. A pull that fails may leave those of other layers.
    pub(crate) fn partial_of(&self, layer: &[u8]) -> Option<u64> {
        let name = format!("{}.partial", sha256(layer).hex());
        self.partial().into_iter().find_map(|(other, size)| (other == name).then_some(size))
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("sha256").join(name)
    }

    pub(crate) fn pull(&self, name: &str, registries: &Registries) -> Result<Vec<Vec<u8>>, ImageError> {
        self.pull_with(name, registries, &RecordingProgress::default()).map(|(_, layers)| layers)
    }

    /// Returns the manifest, and the compressed layers as `unpack` received them.
    pub(crate) fn pull_with(
        &self,
        name: &str,
        registries: &Registries,
        progress: &dyn Progress,
    ) -> Result<(Manifest, Vec<Vec<u8>>), ImageError> {
        let remote = Remote::resolve(&name.parse().unwrap(), registries, &self.blobs, progress)?;
        let digests: Vec<Digest> = remote.manifest().layers.iter().map(|layer| layer.digest).collect();
        let layers = remote.layers(&self.blobs, progress, |index, layer| {
            let mut bytes = Vec::new();
            let read = layer.read_to_end(&mut bytes);
            let fail = |source| ImageError::Io { operation: "unpack", path: "layer".into(), source };
            read.map_err(fail)?;
            let is_intact = sha256(&bytes) == digests[index];
            if is_intact { Ok(bytes) } else { Err(fail(std::io::ErrorKind::InvalidData.into())) }
        })?;
        Ok((remote.manifest().clone(), layers))
    }
}

/// Returns the registry's error in `pulled`.
#[track_caller]
pub(crate) fn registry_error<T>(pulled: Result<T, ImageError>) -> RegistryError {
    match pulled {
        Err(ImageError::Registry { source, .. }) => *source,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the pull succeeded"),
    }
}
