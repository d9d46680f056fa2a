//! Why an image's documents were refused.

use banger_api::Digest;

/// Why an image's documents were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not what it should be at all.
    #[error("the {document} cannot be read")]
    Json {
        /// Index, manifest or configuration.
        document: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It goes on for too long.
    #[error("the {document} has more than {limit} {unit}")]
    TooMany {
        /// Index, manifest or configuration.
        document: &'static str,
        /// What there is too much of.
        unit: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// A manifest of the form that Docker gave up in 2017.
    #[error(
        "the image has a Docker schema 1 manifest, which is not read here: push it again with a current tool"
    )]
    Schema1,
    /// A document of another kind than asked for, or of none that is known.
    #[error("this is no image {expected}: its media type is {found:?}")]
    Kind {
        /// Index or manifest.
        expected: &'static str,
        /// The media type it has.
        found: String,
    },
    /// Something else than an image that is kept in a registry: a chart, a signature.
    #[error("this is an artifact of the type {0:?}, not an image")]
    Artifact(String),
    /// An index, or an image, without anything for the platform.
    #[error("the image is not made for linux/amd64, only for {}", if found.is_empty() { "nothing" } else { found })]
    Platform {
        /// The platforms there are.
        found: String,
    },
    /// A layer that cannot be used.
    #[error("layer {digest} {problem}")]
    Layer {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// Manifest and configuration do not belong together.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// How many the manifest names.
        layers: usize,
        /// How many the configuration names.
        diff_ids: usize,
    },
    /// An archive with more images than one.
    #[error("there are {0} images in it: save one alone")]
    Several(usize),
    /// A part of an archive that is not there.
    #[error("it has no {0}")]
    Missing(String),
    /// A NUL where a program's words come from.
    #[error("the configuration has a NUL in its {0}")]
    Nul(&'static str),
}
