//! Image entries of a catalog. Parsing validates every field, because catalogs are untrusted.

use std::fmt;
use std::path::{Path, PathBuf};

use banger_api::{Digest, ImageName, Name, Reference, Size, is_hidden};
use reqwest::Url;
use serde::Deserialize;

/// Maximum number of sources of an image.
const MAX_SOURCES: usize = 8;

/// Maximum number of packages in a recipe.
const MAX_PACKAGES: usize = 500;

/// Maximum length of a human-readable text or a word, in characters.
const MAX_TEXT: usize = 200;

/// Variants of `mmdebstrap`: mmdebstrap(1), "VARIANTS", without those that need manual steps.
const VARIANTS: [&str; 7] = ["essential", "apt", "minbase", "required", "important", "buildd", "standard"];

/// An image in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogImage {
    /// The image's name.
    pub name: ImageName,
    /// One-line description.
    pub description: Text,
    /// The image's distribution.
    pub distro: Text,
    /// The processor architecture.
    #[serde(default)]
    pub arch: Arch,
    /// The kernel that suits the image.
    pub kernel: Option<Name>,
    /// Approximate size on disk.
    #[serde(deserialize_with = "size")]
    pub size: Size,
    /// Sources of the image. banger uses the first that it can reach.
    #[serde(rename = "source", deserialize_with = "sources")]
    pub sources: Vec<Source>,
}

/// A human-readable line: 1 to 200 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Text(String);

impl TryFrom<String> for Text {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.chars().count() > MAX_TEXT || text.contains(is_hidden) {
            return Err(format!("it must be one line of 1 to {MAX_TEXT} characters"));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Processor architectures of VMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86, as Debian and OCI call it.
    #[default]
    Amd64,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Amd64 => "amd64",
        })
    }
}

/// A source of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSource")]
pub enum Source {
    /// A reference to an image in a registry.
    Oci(Reference),
    /// A file written by `banger image bundle`.
    Bundle {
        /// Path or URL of the file.
        location: Location,
        /// Digest of the whole file.
        sha256: Digest,
    },
    /// Debian packages, installed by `mmdebstrap`.
    Mmdebstrap(Recipe),
}

/// The location of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A path on this host.
    Path(PathBuf),
    /// A URL.
    Url(String),
}

impl Source {
    /// Returns the image's reference, if the source is a registry.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Oci(reference) => Some(reference),
            Self::Bundle { .. } | Self::Mmdebstrap(_) => None,
        }
    }

    /// Returns the kind of source, as its key in the catalog.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oci(_) => "oci",
            Self::Bundle { .. } => "bundle",
            Self::Mmdebstrap(_) => "mmdebstrap",
        }
    }
}

/// The `mmdebstrap` recipe of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Debian's release.
    pub suite: String,
    /// The `mmdebstrap` variant: the initial set of packages.
    pub variant: String,
    /// Packages to install in addition.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// A source as written in the catalog: `oci`, `bundle` with `sha256`, or `mmdebstrap`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    oci: Option<String>,
    bundle: Option<String>,
    sha256: Option<String>,
    mmdebstrap: Option<Recipe>,
}

impl TryFrom<RawSource> for Source {
    type Error = String;

    fn try_from(raw: RawSource) -> Result<Self, String> {
        match raw {
            RawSource { oci: Some(oci), bundle: None, sha256: None, mmdebstrap: None } => {
                oci.parse().map(Self::Oci).map_err(|error| format!("oci {oci:?}: {error}"))
            }
            RawSource { oci: None, bundle: Some(bundle), sha256, mmdebstrap: None } => {
                let location = if Path::new(&bundle).is_absolute() {
                    Location::Path(PathBuf::from(bundle))
                } else if is_url(&bundle) {
                    Location::Url(bundle)
                } else {
                    return Err(format!("bundle {bundle:?} must be a URL or an absolute path"));
                };
                let sha256 = sha256.ok_or("a bundle needs its sha256")?;
                let sha256 = format!("sha256:{}", sha256.strip_prefix("sha256:").unwrap_or(&sha256));
                let sha256 =
                    sha256.parse().map_err(|_| "sha256 must be 64 digits of 0-9 and a-f".to_owned())?;
                Ok(Self::Bundle { location, sha256 })
            }
            RawSource { oci: None, bundle: None, sha256: None, mmdebstrap: Some(recipe) } => {
                recipe.check().map(|()| Self::Mmdebstrap(recipe))
            }
            _ => Err("a source must have exactly one of oci, bundle (with sha256) and mmdebstrap".to_owned()),
        }
    }
}

impl Recipe {
    /// Rejects values that are more than one word in `mmdebstrap`'s arguments or an apt source.
    fn check(&self) -> Result<(), String> {
        if !is_word(&self.suite) {
            return Err(format!("{:?} is not a Debian release name", self.suite));
        }
        if !VARIANTS.contains(&self.variant.as_str()) {
            return Err(format!("variant {:?} is not one of {}", self.variant, VARIANTS.join(", ")));
        }
        if self.packages.len() > MAX_PACKAGES {
            return Err(format!("more than {MAX_PACKAGES} packages"));
        }
        match self.packages.iter().find(|package| !is_word(package)) {
            Some(package) => Err(format!("{package:?} is not a package name")),
            None => Ok(()),
        }
    }
}

/// Returns whether a text is a valid name of a Debian release or package.
///
/// It is a single word and cannot be read as an option.
pub(super) fn is_word(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= MAX_TEXT && text.chars().all(rest)
}

/// Returns whether a text is an https or http URL.
pub(super) fn is_url(text: &str) -> bool {
    // The parser corrects invalid characters, so accept only text that parsing leaves unchanged.
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.as_str() == text)
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn sources<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    let sources = Vec::<Source>::deserialize(deserializer)?;
    match sources.len() {
        1..=MAX_SOURCES => Ok(sources),
        _ => Err(serde::de::Error::custom(format!("an image has 1 to {MAX_SOURCES} sources"))),
    }
}
