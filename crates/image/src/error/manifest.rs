//! Errors of an image's documents.

use banger_api::Digest;

/// Reason for rejecting an image's documents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The document is not valid JSON, or lacks a required field.
    #[error("the {document} cannot be read")]
    Json {
        /// Index, manifest or configuration.
        document: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The document exceeds a limit.
    #[error("the {document} has more than {limit} {unit}")]
    TooMany {
        /// Index, manifest or configuration.
        document: &'static str,
        /// The unit counted.
        unit: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A Docker schema 1 manifest, deprecated in 2017.
    #[error("the image has a Docker schema 1 manifest; supported are Docker schema 2 and OCI manifests")]
    Schema1,
    /// The document has another or an unknown media type.
    #[error("not an image {expected}: its media type is {found:?}")]
    Kind {
        /// Index or manifest.
        expected: &'static str,
        /// Media type of the document.
        found: String,
    },
    /// An artifact other than an image, such as a chart or a signature.
    #[error("not an image, but an artifact of type {0:?}")]
    Artifact(String),
    /// The index or image does not support the platform.
    #[error("no image for linux/amd64; available platforms: {}", if found.is_empty() { "none" } else { found })]
    Platform {
        /// The supported platforms.
        found: String,
    },
    /// A layer was refused.
    #[error("layer {digest} {problem}")]
    Layer {
        /// Digest of the layer.
        digest: Digest,
        /// The problem.
        problem: String,
    },
    /// The manifest and the configuration have different numbers of layers.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// Number of layers in the manifest.
        layers: usize,
        /// Number of layers in the configuration.
        diff_ids: usize,
    },
    /// An archive contains several images.
    #[error("it contains {0} images; expected one")]
    Several(usize),
    /// A part of an archive is missing.
    #[error("it has no {0}")]
    Missing(String),
    /// A string in the configuration contains a NUL.
    #[error("the configuration contains a NUL in its {0}")]
    Nul(&'static str),
}
