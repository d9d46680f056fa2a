//! One image's registry and its mirrors: their order, retries, and the caching of documents.

use std::time::Duration;

use banger_api::{Digest, Reference};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::blobs::Blobs;
use super::host::{RegistryEndpoint, RegistryPath};
use super::manifest::{Document, MAX_DOCUMENT, Manifest, parse_document};
use super::registries::Registries;
use crate::error::RegistryError;
use crate::{ImageError, Progress};

/// Maximum number of tries of one request, or of a transfer that makes no progress.
const MAX_ATTEMPTS: u32 = 5;

/// Maximum delay that a registry can ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Maximum number of indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// The hosts that serve an image.
pub(super) struct Source {
    reference: Reference,
    /// Tried first, each once. If they all fail, the registry is queried.
    mirrors: Vec<RegistryEndpoint>,
    pub(super) registry: RegistryEndpoint,
    back_off: Duration,
}

impl Source {
    pub(super) async fn new(
        reference: &Reference,
        registries: &Registries,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let repository = reference.repository();
        let mut mirrors = Vec::new();
        for route in registries.mirrors(reference.registry()) {
            match RegistryEndpoint::new(&route, repository, registries).await {
                Ok(mirror) => mirrors.push(mirror),
                Err(error) => progress.log(&format!("skipping a mirror: {error}")),
            }
        }
        let route = registries.route(reference.registry());
        let registry = RegistryEndpoint::new(&route, repository, registries).await;
        let registry = registry.map_err(|error| refused(reference, error))?;
        Ok(Self { reference: reference.clone(), mirrors, registry, back_off: registries.timing.back_off })
    }

    /// Returns the mirrors that have not been unreachable so far.
    pub(super) fn mirrors(&self) -> impl Iterator<Item = &RegistryEndpoint> {
        self.mirrors.iter().filter(|mirror| !mirror.is_down())
    }

    /// Returns the digest that the reference points to, and the manifest for this platform.
    pub(super) async fn resolve(
        &self,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<(Digest, Manifest), ImageError> {
        let path = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => RegistryPath::Manifest(digest),
            (None, tag) => self.tag_path(tag.unwrap_or_default()).await,
        };
        let (tag_digest, mut bytes) = self.document(path, blobs, progress).await?;
        let mut digest = tag_digest;
        for _ in 0..=MAX_INDEXES {
            let next = match parse_document(&bytes, digest).map_err(|error| self.refused(error.into()))? {
                Document::Index(index) => index.choose().map(|entry| entry.digest),
                Document::Manifest(manifest) => {
                    let path = RegistryPath::Blob(manifest.config().digest);
                    let (_, config) = self.document(path, blobs, progress).await?;
                    let manifest = manifest.configure(&config);
                    return Ok((tag_digest, manifest.map_err(|error| self.refused(error.into()))?));
                }
            };
            digest = next.map_err(|error| self.refused(error.into()))?;
            (_, bytes) = self.document(RegistryPath::Manifest(digest), blobs, progress).await?;
        }
        Err(self.refused(self.registry.invalid_response("its indexes are nested too deeply")))
    }

    /// Resolves a tag to a digest. A HEAD request does not count as a pull, and the cache often has the rest.
    async fn tag_path<'a>(&self, tag: &'a str) -> RegistryPath<'a> {
        for host in self.mirrors().chain([&self.registry]) {
            // Ignore errors: a lasting one recurs when the manifest is requested.
            if let Ok(Some(digest)) = host.digest_of(tag).await {
                return RegistryPath::Manifest(digest);
            }
        }
        RegistryPath::Tag(tag)
    }

    /// Returns a manifest, an index or a configuration, from the cache if possible.
    async fn document(
        &self,
        path: RegistryPath<'_>,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<(Digest, Vec<u8>), ImageError> {
        let expected = match path {
            RegistryPath::Tag(_) => None,
            RegistryPath::Manifest(digest) | RegistryPath::Blob(digest) => Some(digest),
        };
        if let Some(digest) = expected
            && let Some(bytes) = blobs.document(&digest, MAX_DOCUMENT)?
        {
            return Ok((digest, bytes));
        }
        let bytes = self
            .request_from_any(progress, async |host: &RegistryEndpoint| {
                let bytes = host.document(path).await?;
                let found = Digest::sha256(Sha256::digest(&bytes).into());
                match expected.filter(|expected| *expected != found) {
                    None => Ok(bytes),
                    Some(expected) => {
                        Err(RegistryError::WrongDigest { host: host.name.clone(), expected, found })
                    }
                }
            })
            .await?;
        Ok((blobs.insert(&bytes)?, bytes))
    }

    /// Returns the first good answer of a mirror, or that of the registry.
    async fn request_from_any<T>(
        &self,
        progress: &dyn Progress,
        request: impl AsyncFn(&RegistryEndpoint) -> Result<T, RegistryError>,
    ) -> Result<T, ImageError> {
        for mirror in self.mirrors() {
            match request(mirror).await {
                Ok(result) => return Ok(result),
                Err(error) => progress.log(&format!("{error}; trying the next host")),
            }
        }
        let mut retries = self.retries();
        loop {
            match request(&self.registry).await {
                Ok(result) => return Ok(result),
                Err(error) => {
                    retries.wait(error, progress).await.map_err(|error| self.refused(error))?;
                }
            }
        }
    }

    pub(super) fn retries(&self) -> Retries {
        Retries::new(self.back_off)
    }

    /// Converts a registry's error to an error that names the image.
    pub(super) fn refused(&self, error: RegistryError) -> ImageError {
        refused(&self.reference, error)
    }
}

fn refused(reference: &Reference, error: RegistryError) -> ImageError {
    ImageError::Registry { reference: reference.to_string(), source: Box::new(error) }
}

/// Counts the tries of a request.
pub(crate) struct Retries {
    attempts: u32,
    back_off: Duration,
}

impl Retries {
    pub(crate) fn new(back_off: Duration) -> Self {
        Self { attempts: 0, back_off }
    }

    /// Waits until the next try is due.
    ///
    /// # Errors
    /// Returns `error` if retrying does not help, or if the maximum number of tries is reached.
    pub(crate) async fn wait(
        &mut self,
        error: RegistryError,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        self.attempts += 1;
        if !error.is_transient() || self.attempts >= MAX_ATTEMPTS {
            return Err(error);
        }
        let requested_wait = match &error {
            RegistryError::Status { retry_after: Some(wait), .. } => (*wait).min(MAX_WAIT),
            _ => Duration::ZERO,
        };
        let wait = (self.back_off * 2u32.pow(self.attempts - 1)).max(requested_wait);
        progress.log(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
        sleep(wait).await;
        Ok(())
    }

    /// Resets the count of tries, after progress.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}
