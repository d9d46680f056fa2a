//! What an image's documents say: indexes, manifests and configurations of the OCI image specification and of Docker's
//! image manifest version 2, schema 2. Bytes in, checked values out; who has the bytes holds them against their digest.

use banger_api::{Digest, ImageConfig};
use serde::Deserialize;

use crate::error::{ManifestError, sanitised};

/// Longest index, manifest or configuration, in bytes.
pub const LONGEST_DOCUMENT: u64 = 4 << 20;

/// Most layers of an image; Docker itself makes up to 127.
const MOST_LAYERS: usize = 256;

/// Most variables, and most words of a command.
const MOST_WORDS: usize = 4096;

/// The platform that guests run.
const PLATFORM: (&str, &str) = ("linux", "amd64");

/// An image's manifest and configuration, for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the manifest itself.
    pub digest: Digest,
    /// From the lowest to the uppermost.
    pub layers: Vec<Layer>,
    /// How the image wants to be run.
    pub config: ImageConfig,
}

/// One layer of an image: a tar, packed in a way that its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Of the packed bytes.
    pub digest: Digest,
    /// Of the packed bytes.
    pub size: u64,
    /// Digest of the tar.
    pub diff_id: Digest,
}

/// What a tag or a digest can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image for several platforms.
    Index(Index),
    /// One image for one platform.
    Manifest(Unconfigured),
}

/// The images of several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Descriptor>,
}

/// A manifest without its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfigured {
    digest: Digest,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Where some content is, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind; an index may leave it out.
    #[serde(default)]
    media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length.
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

/// A document of any kind, to see which.
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

/// Reads an index or a manifest, whose digest is `digest`.
///
/// # Errors
/// When it is neither, or not one that can be used.
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
            Ok(Document::Manifest(Unconfigured { digest, config, layers }))
        }
        _ => Err(ManifestError::Kind { expected: "manifest or index", found: media_type }),
    }
}

/// Reads an index.
///
/// # Errors
/// When it is none.
pub fn parse_index(bytes: &[u8]) -> Result<Index, ManifestError> {
    // An index holds no digest of its own.
    match parse_document(bytes, Digest::sha256([0; 32]))? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => {
            Err(ManifestError::Kind { expected: "index", found: "a manifest's".to_owned() })
        }
    }
}

/// Reads a manifest, whose digest is `digest`.
///
/// # Errors
/// When it is none, or has layers that cannot be used.
pub fn parse_manifest(bytes: &[u8], digest: Digest) -> Result<Unconfigured, ManifestError> {
    match parse_document(bytes, digest)? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => {
            Err(ManifestError::Kind { expected: "manifest", found: "an index's".to_owned() })
        }
    }
}

/// Reads an image's configuration: how it wants to be run, and the digests of its layers' tars.
///
/// # Errors
/// When it is none, is for another platform, or has a NUL in it.
pub fn parse_config(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ManifestError> {
    let file: ConfigFile = json(bytes, "configuration")?;
    if (file.os.as_str(), file.architecture.as_str()) != PLATFORM {
        return Err(ManifestError::Platform { found: shown(&file.os, &file.architecture, None) });
    }
    let run = file.config.unwrap_or_default();
    let config = ImageConfig {
        env: words(run.env, "variables")?,
        working_dir: word(run.working_dir, "working directory")?,
        user: word(run.user, "user")?,
        entrypoint: words(run.entrypoint, "entry point")?,
        cmd: words(run.cmd, "command")?,
    };
    Ok((config, file.rootfs.diff_ids.unwrap_or_default()))
}

impl Index {
    /// The entry for linux/amd64: of several, one that any such processor runs.
    ///
    /// # Errors
    /// When there is none, naming those there are.
    pub fn choose(&self) -> Result<&Descriptor, ManifestError> {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|p| (p.os.as_str(), p.architecture.as_str()) == PLATFORM)
        };
        let demanding = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.variant.is_some());
        let unnamed = || match self.entries.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        let chosen = self.entries.iter().filter(fits).min_by_key(demanding).or_else(unnamed);
        chosen.ok_or_else(|| ManifestError::Platform { found: self.platforms() })
    }

    /// The entry for linux/amd64, where an index has no other image, as one on the disk may.
    ///
    /// # Errors
    /// As [`choose`](Self::choose); when there are several images.
    pub fn only(&self) -> Result<&Descriptor, ManifestError> {
        let without_platform = self.entries.iter().filter(|entry| entry.platform.is_none()).count();
        match without_platform {
            0 | 1 => self.choose(),
            several => Err(ManifestError::Several(several)),
        }
    }

    /// Those there are, without what only says something about the images.
    fn platforms(&self) -> String {
        let mut found: Vec<String> = Vec::new();
        for platform in self.entries.iter().filter_map(|entry| entry.platform.as_ref()) {
            let shown = shown(&platform.os, &platform.architecture, platform.variant.as_deref());
            if platform.os != "unknown" && !found.contains(&shown) && found.len() < 20 {
                found.push(shown);
            }
        }
        found.join(", ")
    }
}

impl Unconfigured {
    /// Where the configuration is.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// The whole image, with the configuration that [`Self::config`] names.
    ///
    /// # Errors
    /// When the configuration is not usable, or not this manifest's.
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
    if layers.len() > MOST_LAYERS {
        let limit = MOST_LAYERS as u64;
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
            return refuse("is not kept in the registry, its licence forbids that".to_owned());
        }
        let tar = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"]
            .iter()
            .find_map(|tar| kind.strip_prefix(tar));
        if !matches!(tar, Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) {
            return refuse(format!("is of the type {kind:?}; tar, and tar with gzip or zstd, can be read"));
        }
        match total.checked_add(layer.size) {
            Some(sum) => total = sum,
            None => return refuse(format!("cannot have {} bytes", layer.size)),
        }
    }
    Ok(())
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], document: &'static str) -> Result<T, ManifestError> {
    if bytes.len() as u64 > LONGEST_DOCUMENT {
        return Err(ManifestError::TooMany { document, unit: "bytes", limit: LONGEST_DOCUMENT });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}

fn words(words: Option<Vec<String>>, what: &'static str) -> Result<Vec<String>, ManifestError> {
    let words = words.unwrap_or_default();
    if words.len() > MOST_WORDS {
        let limit = MOST_WORDS as u64;
        return Err(ManifestError::TooMany { document: "configuration", unit: what, limit });
    }
    if words.iter().any(|word| word.contains('\0')) { Err(ManifestError::Nul(what)) } else { Ok(words) }
}

fn word(word: Option<String>, what: &'static str) -> Result<Option<String>, ManifestError> {
    let word = words(word.map(|word| vec![word]), what)?.pop();
    Ok(word.filter(|word| !word.is_empty()))
}

fn shown(os: &str, architecture: &str, variant: Option<&str>) -> String {
    let whole = [Some(os), Some(architecture), variant].into_iter().flatten().collect::<Vec<_>>().join("/");
    sanitised(&whole)
}
