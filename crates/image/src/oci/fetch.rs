//! Downloads one layer to the cache. It resumes after each interruption, hashes the bytes as they arrive, and lets
//! readers follow.

use std::fmt::Write as _;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger_api::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::blobs::{Blobs, Claim, Partial};
use super::growing::Growing;
use super::host::RegistryEndpoint;
use super::manifest::Layer;
use super::meter::Meter;
use super::source::Source;
use crate::error::RegistryError;
use crate::{ImageError, Progress, publish};

/// Size of the buffer for hashing an earlier download, in bytes.
const BUFFER: usize = 1 << 20;

/// Bytes that a transfer must receive to count as progress.
const ADVANCE: u64 = 64 << 10;

/// Interval between checks whether another process has finished a blob.
const POLL: Duration = Duration::from_millis(100);

/// The download of one layer.
pub(super) struct Fetch {
    pub(super) layer: Layer,
    /// The file that the layer's readers follow.
    pub(super) growing: Arc<Growing>,
    /// Whether readers may have seen bytes that a correct download does not have.
    suspect: AtomicBool,
}

/// Everything that a download needs.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) source: &'a Source,
    pub(super) blobs: &'a Blobs,
    pub(super) meter: &'a Meter<'a>,
    pub(super) progress: &'a dyn Progress,
}

/// The state of an unfinished layer.
struct Filling {
    partial: Partial,
    hash: Sha256,
    length: u64,
    /// The greatest length so far.
    furthest: u64,
    /// Whether it contains bytes of an earlier download or of another host.
    mixed: bool,
}

/// The reason why a transfer failed.
enum Trouble {
    Registry(RegistryError),
    Local(ImageError),
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Local(error)
    }
}

impl Fetch {
    pub(super) fn new(layer: Layer) -> Self {
        Self { layer, growing: Arc::default(), suspect: AtomicBool::new(false) }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Downloads the layer to the cache, unless it is already there.
    pub(super) async fn run(&self, means: Means<'_>) -> Result<(), ImageError> {
        loop {
            match means.blobs.claim(&self.layer.digest)? {
                Claim::Whole(file) => {
                    if self.take(file, means)? {
                        return Ok(());
                    }
                }
                Claim::Taken(length) => {
                    means.meter.set(&self.layer, length.min(self.layer.size));
                    sleep(POLL).await;
                }
                Claim::Ours(partial) => return self.fill(partial, means).await,
            }
        }
    }

    /// Uses the cached blob. Returns false if it was damaged, and removes it.
    fn take(&self, file: File, means: Means<'_>) -> Result<bool, ImageError> {
        let Layer { digest, size, .. } = self.layer;
        let found = file.metadata().map_or(0, |metadata| metadata.len());
        if found != size {
            if means.blobs.is_sound(&digest, &file)? {
                let wrong = RegistryError::WrongLength { digest, expected: size, found };
                return Err(means.source.refused(wrong));
            }
            means.blobs.remove(&digest)?;
            return Ok(false);
        }
        means.progress.log(&format!("layer {} is in the cache", digest.short()));
        means.meter.set(&self.layer, size);
        self.growing.reach(&Arc::new(file), size);
        self.growing.finish();
        Ok(true)
    }

    async fn fill(&self, partial: Partial, means: Means<'_>) -> Result<(), ImageError> {
        let mut filling = self.begin(partial, means).await?;
        publish::require_space(means.blobs.folder(), self.layer.size - filling.length)?;
        let filled = self.fill_from_any(&mut filling, means).await;
        if filled.is_err() && filling.length == 0 {
            filling.partial.discard()?;
            return filled;
        }
        filled?;
        filling.partial.finish()?;
        self.growing.finish();
        Ok(())
    }

    /// Hashes the bytes that an earlier download left.
    async fn begin(&self, partial: Partial, means: Means<'_>) -> Result<Filling, ImageError> {
        let there = partial.len()?;
        let mut filling = Filling { partial, hash: Sha256::new(), length: 0, furthest: 0, mixed: there > 0 };
        if there > self.layer.size {
            filling.partial.truncate(0)?;
        } else if there > 0 {
            self.suspect.store(true, Ordering::Relaxed);
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = filling.partial.read_at(&mut buffer, filling.length)?;
            if n == 0 {
                return Ok(filling);
            }
            self.advance(&mut filling, &buffer[..n], means);
            // Hashing can take long, so let other downloads run.
            yield_now().await;
        }
    }

    async fn fill_from_any(&self, filling: &mut Filling, means: Means<'_>) -> Result<(), ImageError> {
        for mirror in means.source.mirrors() {
            match self.transfer(filling, mirror, means).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Local(error)) => return Err(error),
                Err(Trouble::Registry(error)) => {
                    means.progress.log(&format!("{error}; trying the next host"));
                    if filling.length > 0 {
                        filling.mixed = true;
                    }
                    self.suspect.store(true, Ordering::Relaxed);
                }
            }
        }
        let mut tries = means.source.tries();
        loop {
            let before = filling.furthest;
            match self.transfer(filling, &means.source.registry, means).await {
                Ok(()) => return Ok(()),
                Err(Trouble::Local(error)) => return Err(error),
                Err(Trouble::Registry(RegistryError::WrongDigest { .. })) if filling.mixed => {
                    means.progress.log("the partial download was damaged: starting over");
                    filling.mixed = false;
                }
                Err(Trouble::Registry(error)) => {
                    if filling.furthest >= before + ADVANCE {
                        tries.reset();
                    }
                    let again = tries.again(error, means.progress).await;
                    again.map_err(|error| means.source.refused(error))?;
                }
            }
        }
    }

    /// Downloads the missing bytes from `host`, and verifies the whole layer.
    async fn transfer(
        &self,
        filling: &mut Filling,
        host: &RegistryEndpoint,
        means: Means<'_>,
    ) -> Result<(), Trouble> {
        let Layer { digest, size, .. } = self.layer;
        if filling.length < size {
            let mut response = host.blob(digest, filling.length).await?;
            self.place(filling, &response, host)?;
            if let Some(length) = response.content_length()
                && length != size - filling.length
            {
                let found = filling.length.saturating_add(length);
                return Err(RegistryError::WrongLength { digest, expected: size, found }.into());
            }
            let cut =
                |done| RegistryError::Cut { host: host.name.clone(), what: digest.to_string(), done, size };
            loop {
                let chunk = host.chunk(&mut response).await.map_err(|error| match error {
                    RegistryError::Unreachable { .. } => cut(filling.length),
                    other => other,
                })?;
                let Some(chunk) = chunk else { break };
                let found = filling.length + chunk.len() as u64;
                if found > size {
                    return Err(RegistryError::WrongLength { digest, expected: size, found }.into());
                }
                filling.partial.write(&chunk, filling.length, size - filling.length)?;
                self.advance(filling, &chunk, means);
            }
            if filling.length < size {
                return Err(cut(filling.length).into());
            }
        }
        let found = Digest::sha256(filling.hash.clone().finalize().into());
        if found == digest {
            return Ok(());
        }
        self.restart(filling)?;
        Err(RegistryError::WrongDigest { host: host.name.clone(), expected: digest, found }.into())
    }

    /// Checks that a response starts where the file ends.
    fn place(
        &self,
        filling: &mut Filling,
        response: &Response,
        host: &RegistryEndpoint,
    ) -> Result<(), Trouble> {
        let (digest, size) = (self.layer.digest, self.layer.size);
        match response.status() {
            StatusCode::OK if filling.length == 0 => Ok(()),
            StatusCode::OK => self.restart(filling).map_err(Trouble::Local),
            StatusCode::PARTIAL_CONTENT if continues(response, filling.length, size) => Ok(()),
            _ if filling.length == 0 => {
                Err(host.unusable("it sent a part of a blob instead of all of it").into())
            }
            _ => {
                // The host does not resume: the next try starts from the beginning.
                self.restart(filling)?;
                Err(RegistryError::Cut { host: host.name.clone(), what: digest.to_string(), done: 0, size }
                    .into())
            }
        }
    }

    fn advance(&self, filling: &mut Filling, bytes: &[u8], means: Means<'_>) {
        filling.hash.update(bytes);
        filling.length += bytes.len() as u64;
        filling.furthest = filling.furthest.max(filling.length);
        self.growing.reach(filling.partial.file(), filling.length);
        means.meter.set(&self.layer, filling.length);
    }

    fn restart(&self, filling: &mut Filling) -> Result<(), ImageError> {
        self.suspect.store(true, Ordering::Relaxed);
        self.growing.reach(filling.partial.file(), 0);
        filling.partial.truncate(0)?;
        filling.hash = Sha256::new();
        filling.length = 0;
        Ok(())
    }
}

/// Returns whether a 206 response covers `start` to the end of `size` bytes (RFC 9110, 14.4).
fn continues(response: &Response, start: u64, size: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let mut expected = String::new();
    // Writing to a string never fails.
    let _ = write!(expected, "bytes {start}-{}/", size - 1);
    let total = range.and_then(|range| range.strip_prefix(&expected));
    total.is_some_and(|total| total == "*" || total.parse() == Ok(size))
}
