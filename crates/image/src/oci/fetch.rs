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
use super::growing::GrowingFile;
use super::host::RegistryEndpoint;
use super::manifest::Layer;
use super::meter::Meter;
use super::source::Source;
use crate::error::RegistryError;
use crate::{ImageError, Progress, publish};

/// Size of the buffer for hashing an earlier download, in bytes.
const BUFFER_SIZE: usize = 1 << 20;

/// Bytes that a transfer must receive to count as progress.
const MIN_PROGRESS: u64 = 64 << 10;

/// Interval between checks whether another process has finished a blob.
const POLL: Duration = Duration::from_millis(100);

/// The download of one layer.
pub(super) struct Fetch {
    pub(super) layer: Layer,
    /// The file that the layer's readers follow.
    pub(super) growing: Arc<GrowingFile>,
    /// Whether readers may have seen bytes that a correct download does not have.
    suspect: AtomicBool,
}

/// Everything that a download needs.
#[derive(Clone, Copy)]
pub(super) struct FetchContext<'a> {
    pub(super) source: &'a Source,
    pub(super) blobs: &'a Blobs,
    pub(super) meter: &'a Meter<'a>,
    pub(super) progress: &'a dyn Progress,
}

/// The state of an unfinished layer.
struct DownloadState {
    partial: Partial,
    hash: Sha256,
    length: u64,
    /// The greatest length so far.
    max_length: u64,
    /// Whether it contains bytes of an earlier download or of another host.
    has_mixed_sources: bool,
}

/// The reason why a transfer failed.
enum TransferError {
    Registry(RegistryError),
    Local(ImageError),
}

impl From<RegistryError> for TransferError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<ImageError> for TransferError {
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
    pub(super) async fn run(&self, context: FetchContext<'_>) -> Result<(), ImageError> {
        loop {
            match context.blobs.claim(&self.layer.digest)? {
                Claim::Complete(file) => {
                    if self.use_cached(file, context)? {
                        return Ok(());
                    }
                }
                Claim::Busy(length) => {
                    context.meter.set(&self.layer, length.min(self.layer.size));
                    sleep(POLL).await;
                }
                Claim::Acquired(partial) => return self.download(partial, context).await,
            }
        }
    }

    /// Uses the cached blob. Returns false if it was damaged, and removes it.
    fn use_cached(&self, file: File, context: FetchContext<'_>) -> Result<bool, ImageError> {
        let Layer { digest, size, .. } = self.layer;
        let found = file.metadata().map_or(0, |metadata| metadata.len());
        if found != size {
            if context.blobs.is_intact(&digest, &file)? {
                let wrong = RegistryError::WrongLength { digest, expected: size, found };
                return Err(context.source.refused(wrong));
            }
            context.blobs.remove(&digest)?;
            return Ok(false);
        }
        context.progress.log(&format!("layer {} is in the cache", digest.short()));
        context.meter.set(&self.layer, size);
        self.growing.set_length(&Arc::new(file), size);
        self.growing.finish();
        Ok(true)
    }

    async fn download(&self, partial: Partial, context: FetchContext<'_>) -> Result<(), ImageError> {
        let mut state = self.begin(partial, context).await?;
        publish::require_space(context.blobs.dir(), self.layer.size - state.length)?;
        let result = self.download_from_any(&mut state, context).await;
        if result.is_err() && state.length == 0 {
            state.partial.discard()?;
            return result;
        }
        result?;
        state.partial.finish()?;
        self.growing.finish();
        Ok(())
    }

    /// Hashes the bytes that an earlier download left.
    async fn begin(&self, partial: Partial, context: FetchContext<'_>) -> Result<DownloadState, ImageError> {
        let existing = partial.len()?;
        let mut state = DownloadState {
            partial,
            hash: Sha256::new(),
            length: 0,
            max_length: 0,
            has_mixed_sources: existing > 0,
        };
        if existing > self.layer.size {
            state.partial.truncate(0)?;
        } else if existing > 0 {
            self.suspect.store(true, Ordering::Relaxed);
        }
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let n = state.partial.read_at(&mut buffer, state.length)?;
            if n == 0 {
                return Ok(state);
            }
            self.append(&mut state, &buffer[..n], context);
            // Hashing can take long, so let other downloads run.
            yield_now().await;
        }
    }

    async fn download_from_any(
        &self,
        state: &mut DownloadState,
        context: FetchContext<'_>,
    ) -> Result<(), ImageError> {
        for mirror in context.source.mirrors() {
            match self.transfer(state, mirror, context).await {
                Ok(()) => return Ok(()),
                Err(TransferError::Local(error)) => return Err(error),
                Err(TransferError::Registry(error)) => {
                    context.progress.log(&format!("{error}; trying the next host"));
                    if state.length > 0 {
                        state.has_mixed_sources = true;
                    }
                    self.suspect.store(true, Ordering::Relaxed);
                }
            }
        }
        let mut retries = context.source.retries();
        loop {
            let before = state.max_length;
            match self.transfer(state, &context.source.registry, context).await {
                Ok(()) => return Ok(()),
                Err(TransferError::Local(error)) => return Err(error),
                Err(TransferError::Registry(RegistryError::WrongDigest { .. }))
                    if state.has_mixed_sources =>
                {
                    context.progress.log("the partial download was damaged: starting over");
                    state.has_mixed_sources = false;
                }
                Err(TransferError::Registry(error)) => {
                    if state.max_length >= before + MIN_PROGRESS {
                        retries.reset();
                    }
                    let retry = retries.wait(error, context.progress).await;
                    retry.map_err(|error| context.source.refused(error))?;
                }
            }
        }
    }

    /// Downloads the missing bytes from `host`, and verifies the whole layer.
    async fn transfer(
        &self,
        state: &mut DownloadState,
        host: &RegistryEndpoint,
        context: FetchContext<'_>,
    ) -> Result<(), TransferError> {
        let Layer { digest, size, .. } = self.layer;
        if state.length < size {
            let mut response = host.blob(digest, state.length).await?;
            self.check_range(state, &response, host)?;
            if let Some(length) = response.content_length()
                && length != size - state.length
            {
                let found = state.length.saturating_add(length);
                return Err(RegistryError::WrongLength { digest, expected: size, found }.into());
            }
            let interrupted = |done| RegistryError::Interrupted {
                host: host.name.clone(),
                what: digest.to_string(),
                done,
                size,
            };
            loop {
                let chunk = host.chunk(&mut response).await.map_err(|error| match error {
                    RegistryError::Unreachable { .. } => interrupted(state.length),
                    other => other,
                })?;
                let Some(chunk) = chunk else { break };
                let found = state.length + chunk.len() as u64;
                if found > size {
                    return Err(RegistryError::WrongLength { digest, expected: size, found }.into());
                }
                state.partial.write(&chunk, state.length, size - state.length)?;
                self.append(state, &chunk, context);
            }
            if state.length < size {
                return Err(interrupted(state.length).into());
            }
        }
        let found = Digest::sha256(state.hash.clone().finalize().into());
        if found == digest {
            return Ok(());
        }
        self.restart(state)?;
        Err(RegistryError::WrongDigest { host: host.name.clone(), expected: digest, found }.into())
    }

    /// Checks that a response starts where the file ends.
    fn check_range(
        &self,
        state: &mut DownloadState,
        response: &Response,
        host: &RegistryEndpoint,
    ) -> Result<(), TransferError> {
        let (digest, size) = (self.layer.digest, self.layer.size);
        match response.status() {
            StatusCode::OK if state.length == 0 => Ok(()),
            StatusCode::OK => self.restart(state).map_err(TransferError::Local),
            StatusCode::PARTIAL_CONTENT if continues(response, state.length, size) => Ok(()),
            _ if state.length == 0 => {
                Err(host.invalid_response("it sent a part of a blob instead of all of it").into())
            }
            _ => {
                // The host does not resume: the next try starts from the beginning.
                self.restart(state)?;
                Err(RegistryError::Interrupted {
                    host: host.name.clone(),
                    what: digest.to_string(),
                    done: 0,
                    size,
                }
                .into())
            }
        }
    }

    fn append(&self, state: &mut DownloadState, bytes: &[u8], context: FetchContext<'_>) {
        state.hash.update(bytes);
        state.length += bytes.len() as u64;
        state.max_length = state.max_length.max(state.length);
        self.growing.set_length(state.partial.file(), state.length);
        context.meter.set(&self.layer, state.length);
    }

    fn restart(&self, state: &mut DownloadState) -> Result<(), ImageError> {
        self.suspect.store(true, Ordering::Relaxed);
        self.growing.set_length(state.partial.file(), 0);
        state.partial.truncate(0)?;
        state.hash = Sha256::new();
        state.length = 0;
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
