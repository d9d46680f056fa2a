//! One image's registry and its mirrors: their order, retries, and the caching of documents.

use std::time::Duration;

use banger_api::{Digest, Reference};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::blobs::Blobs;
use super::host::{RegistryEndpoint, RegistryPath};
use super::manifest::{Document, LONGEST_DOCUMENT, Manifest, parse_document};
use super::registries::Registries;
use crate::error::RegistryError;
use crate::{ImageError, Progress};

/// Maximum number of tries of one request, or of a transfer that makes no progress.
const MOST_TRIES: u32 = 5;

/// Maximum delay that a registry can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Maximum number of indexes on the way to a manifest.
const MOST_INDEXES: usize = 3;

/// The hosts that serve an image.
pub(super) struct Source {
    reference: Reference,
    /// Tried first, each once. If they all fail, the registry is asked.
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
        let wanted = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => RegistryPath::Manifest(digest),
            (None, tag) => self.current(tag.unwrap_or_default()).await,
        };
        let (tag_digest, mut bytes) = self.document(wanted, blobs, progress).await?;
        let mut digest = tag_digest;
        for _ in 0..=MOST_INDEXES {
            let next = match parse_document(&bytes, digest).map_err(|error| self.refused(error.into()))? {
                Document::Index(index) => index.choose().map(|entry| entry.digest),
                Document::Manifest(manifest) => {
                    let wanted = RegistryPath::Blob(manifest.config().digest);
                    let (_, config) = self.document(wanted, blobs, progress).await?;
                    let manifest = manifest.configure(&config);
                    return Ok((tag_digest, manifest.map_err(|error| self.refused(error.into()))?));
                }
            };
            digest = next.map_err(|error| self.refused(error.into()))?;
            (_, bytes) = self.document(RegistryPath::Manifest(digest), blobs, progress).await?;
        }
        Err(self.refused(self.registry.unusable("its indexes are nested too deeply")))
    }

    /// Resolves a tag to a digest. A HEAD request does not count as a pull, and the cache often has the rest.
    async fn current<'a>(&self, tag: &'a str) -> RegistryPath<'a> {
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
        wanted: RegistryPath<'_>,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<(Digest, Vec<u8>), ImageError> {
        let expected = match wanted {
            RegistryPath::Tag(_) => None,
            RegistryPath::Manifest(digest) | RegistryPath::Blob(digest) => Some(digest),
        };
        if let Some(digest) = expected
            && let Some(bytes) = blobs.document(&digest, LONGEST_DOCUMENT)?
        {
            return Ok((digest, bytes));
        }
        let bytes = self
            .ask(progress, async |host: &RegistryEndpoint| {
                let bytes = host.document(wanted).await?;
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
    async fn ask<T>(
        &self,
        progress: &dyn Progress,
        request: impl AsyncFn(&RegistryEndpoint) -> Result<T, RegistryError>,
    ) -> Result<T, ImageError> {
        for mirror in self.mirrors() {
            match request(mirror).await {
                Ok(answer) => return Ok(answer),
                Err(error) => progress.log(&format!("{error}; trying the next host")),
            }
        }
        let mut tries = self.tries();
        loop {
            match request(&self.registry).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tries.again(error, progress).await.map_err(|error| self.refused(error))?;
                }
            }
        }
    }

    pub(super) fn tries(&self) -> Tries {
        Tries::new(self.back_off)
    }

    /// Converts a registry's error to one that names the image.
    pub(super) fn refused(&self, error: RegistryError) -> ImageError {
        refused(&self.reference, error)
    }
}

fn refused(reference: &Reference, error: RegistryError) -> ImageError {
    ImageError::Registry { reference: reference.to_string(), source: Box::new(error) }
}

/// Counts the tries of a request.
pub(crate) struct Tries {
    made: u32,
    back_off: Duration,
}

impl Tries {
    pub(crate) fn new(back_off: Duration) -> Self {
        Self { made: 0, back_off }
    }

    /// Waits until the next try is due.
    ///
    /// # Errors
    /// Returns `error` if retrying does not help, or if the maximum number of tries is reached.
    pub(crate) async fn again(
        &mut self,
        error: RegistryError,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        self.made += 1;
        if !error.is_passing() || self.made >= MOST_TRIES {
            return Err(error);
        }
        let asked = match &error {
            RegistryError::Status { retry_after: Some(wait), .. } => (*wait).min(LONGEST_WAIT),
            _ => Duration::ZERO,
        };
        let wait = (self.back_off * 2u32.pow(self.made - 1)).max(asked);
        progress.log(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
        sleep(wait).await;
        Ok(())
    }

    /// Starts counting anew, after progress.
    pub(crate) fn reset(&mut self) {
        self.made = 0;
    }
}
