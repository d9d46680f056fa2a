//! Parsers for an image's documents: indexes, manifests and configurations of the OCI image specification and of
//! Docker's image manifest version 2, schema 2. They check values; the caller verifies digests.

use banger_api::{Digest, ImageConfig};
use serde::Deserialize;

use crate::error::{ManifestError, sanitised};

/// Maximum size of an index, manifest or configuration, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Maximum number of layers of an image. Docker itself creates up to 127.
const MAX_LAYERS: usize = 256;

/// Maximum number of environment variables, and of arguments of a command.
const MAX_WORDS: usize = 4096;

/// The guests' platform.
const PLATFORM: (&str, &str) = ("linux", "amd64");

/// An image's manifest and configuration, for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Digest of the manifest itself.
    pub digest: Digest,
    /// Lowest layer first.
    pub layers: Vec<Layer>,
    /// The image's run configuration.
    pub config: ImageConfig,
}

/// One layer of an image: a tar, whose compression shows in its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Size of the compressed bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// A document that a tag or digest can refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image for several platforms.
    Index(Index),
    /// One image for one platform.
    Manifest(UnconfiguredManifest),
}

/// The images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Descriptor>,
}

/// A manifest without its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnconfiguredManifest {
    digest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A reference to content: its type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type; optional in an index.
    #[serde(default)]
    media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// A document of any kind, parsed to detect which.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct ConfigFile {
    os: String,
    architecture: String,
    #[serde(default)]
    config: Option<RunConfig>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

/// Parses an index or a manifest, whose digest is `digest`.
///
/// # Errors
/// Returns an error if the document is neither, or is not supported.
pub fn parse_document(bytes: &[u8], digest: Digest) -> Result<Document, ManifestError> {
    let any: AnyDocument = json(bytes, "manifest")?;
    let media_type = any.media_type.unwrap_or_default();
    if any.schema_version == Some(1)
        || media_type.starts_with("application/vnd.docker.distribution.manifest.v1")
    {
        return Err(ManifestError::Schema1);
    }
    match (any.manifests, any.config, any.layers) {
        (Some(entries), None, None) => Ok(Document::Index(Index { entries })),
        (None, Some(config), layers) => {
            let kinds = [
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.docker.container.image.v1+json",
            ];
            if !kinds.contains(&config.media_type.as_str()) {
                return Err(ManifestError::Artifact(any.artifact_type.unwrap_or(config.media_type)));
            }
            let layers = layers.unwrap_or_default();
            check_layers(&layers)?;
            Ok(Document::Manifest(UnconfiguredManifest { digest, config, layers }))
        }
        _ => Err(ManifestError::Kind { expected: "manifest or index", found: media_type }),
    }
}

/// Parses an index.
///
/// # Errors
/// Returns an error if the document is not an index.
pub fn parse_index(bytes: &[u8]) -> Result<Index, ManifestError> {
    // The digest is not used, because an index does not record its own.
    match parse_document(bytes, Digest::sha256([0; 32]))? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => {
            Err(ManifestError::Kind { expected: "index", found: "an image manifest".to_owned() })
        }
    }
}

/// Parses a manifest, whose digest is `digest`.
///
/// # Errors
/// Returns an error if the document is not a manifest, or has unsupported layers.
pub fn parse_manifest(bytes: &[u8], digest: Digest) -> Result<UnconfiguredManifest, ManifestError> {
    match parse_document(bytes, digest)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => {
            Err(ManifestError::Kind { expected: "manifest", found: "an image index".to_owned() })
        }
    }
}

/// Parses an image's configuration: how to run the image, and its layers' `diff_id`s.
///
/// # Errors
/// Returns an error if the document is not a configuration, is for another platform, or contains a NUL.
pub fn parse_config(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ManifestError> {
    let file: ConfigFile = json(bytes, "configuration")?;
    if (file.os.as_str(), file.architecture.as_str()) != PLATFORM {
        return Err(ManifestError::Platform { found: platform_name(&file.os, &file.architecture, None) });
    }
    let run = file.config.unwrap_or_default();
    let config = ImageConfig {
        env: words(run.env, "environment variables")?,
        working_dir: word(run.working_dir, "working directory")?,
        user: word(run.user, "user")?,
        entrypoint: words(run.entrypoint, "entrypoint arguments")?,
        cmd: words(run.cmd, "command arguments")?,
    };
    if config.is_too_long() {
        let (unit, limit) = ("bytes of variables and arguments", ImageConfig::MAX as u64);
        return Err(ManifestError::TooMany { document: "configuration", unit, limit });
    }
    Ok((config, file.rootfs.diff_ids.unwrap_or_default()))
}

impl Index {
    /// Returns the entry for linux/amd64, preferring one without a CPU variant.
    ///
    /// # Errors
    /// Returns an error that names the available platforms if none fits.
    pub fn choose(&self) -> Result<&Descriptor, ManifestError> {
        let matches_platform = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|p| (p.os.as_str(), p.architecture.as_str()) == PLATFORM)
        };
        let has_variant = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.variant.is_some());
        let only_entry = || match self.entries.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        let chosen = self.entries.iter().filter(matches_platform).min_by_key(has_variant).or_else(only_entry);
        chosen.ok_or_else(|| ManifestError::Platform { found: self.platforms() })
    }

    /// Returns the entry for linux/amd64. Fails if the index has several images, as an index on disk may.
    ///
    /// # Errors
    /// Fails like [`choose`](Self::choose), and if the index has several images.
    pub fn only(&self) -> Result<&Descriptor, ManifestError> {
        let without_platform = self.entries.iter().filter(|entry| entry.platform.is_none()).count();
        match without_platform {
            0 | 1 => self.choose(),
            several => Err(ManifestError::Several(several)),
        }
    }

    /// Lists the platforms, leaving out attestations and similar entries.
    fn platforms(&self) -> String {
        let mut found: Vec<String> = Vec::new();
        for platform in self.entries.iter().filter_map(|entry| entry.platform.as_ref()) {
            let name = platform_name(&platform.os, &platform.architecture, platform.variant.as_deref());
            if platform.os != "unknown" && !found.contains(&name) && found.len() < 20 {
                found.push(name);
            }
        }
        found.join(", ")
    }
}

impl UnconfiguredManifest {
    /// Returns the descriptor of the configuration.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// Combines the manifest with the configuration that [`Self::config`] refers to.
    ///
    /// # Errors
    /// Returns an error if the configuration is not usable, or does not match this manifest.
    pub fn configure(self, config: &[u8]) -> Result<Manifest, ManifestError> {
        let (config, diff_ids) = parse_config(config)?;
        if self.layers.len() != diff_ids.len() {
            return Err(ManifestError::LayerCount { layers: self.layers.len(), diff_ids: diff_ids.len() });
        }
        let layers = self.layers.iter().zip(diff_ids);
        let layers = layers
            .map(|(layer, diff_id)| Layer { digest: layer.digest, size: layer.size, diff_id })
            .collect();
        Ok(Manifest { digest: self.digest, layers, config })
    }
}

fn check_layers(layers: &[Descriptor]) -> Result<(), ManifestError> {
    if layers.len() > MAX_LAYERS {
        let limit = MAX_LAYERS as u64;
        return Err(ManifestError::TooMany { document: "manifest", unit: "layers", limit });
    }
    let mut total = 0u64;
    for layer in layers {
        let refuse = |problem: String| Err(ManifestError::Layer { digest: layer.digest, problem });
        let kind = layer.media_type.as_str();
        if layer.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || kind.contains("nondistributable")
            || kind.contains("foreign")
        {
            return refuse("is not stored in the registry: its licence forbids redistribution".to_owned());
        }
        let tar = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"]
            .iter()
            .find_map(|tar| kind.strip_prefix(tar));
        if !matches!(tar, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
            return refuse(format!(
                "has the type {kind:?}; supported are tar, and tar compressed with gzip or zstd"
            ));
        }
        match total.checked_add(layer.size) {
            Some(sum) => total = sum,
            None => return refuse(format!("cannot have {} bytes", layer.size)),
        }
    }
    Ok(())
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], document: &'static str) -> Result<T, ManifestError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(ManifestError::TooMany { document, unit: "bytes", limit: MAX_DOCUMENT });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}

fn words(words: Option<Vec<String>>, what: &'static str) -> Result<Vec<String>, ManifestError> {
    let words = words.unwrap_or_default();
    if words.len() > MAX_WORDS {
        let limit = MAX_WORDS as u64;
        return Err(ManifestError::TooMany { document: "configuration", unit: what, limit });
    }
    if words.iter().any(|word| word.contains('\0')) { Err(ManifestError::Nul(what)) } else { Ok(words) }
}

fn word(word: Option<String>, what: &'static str) -> Result<Option<String>, ManifestError> {
    let word = words(word.map(|word| vec![word]), what)?.pop();
    Ok(word.filter(|word| !word.is_empty()))
}

fn platform_name(os: &str, architecture: &str, variant: Option<&str>) -> String {
    let name = [Some(os), Some(architecture), variant].into_iter().flatten().collect::<Vec<_>>().join("/");
    sanitised(&name)
}
