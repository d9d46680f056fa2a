//! An image's entry, checked field by field where it is read: a catalog may be anybody's.

use std::fmt;
use std::path::{Path, PathBuf};

use banger_api::{Digest, ImageName, Name, Reference, Size};
use reqwest::Url;
use serde::Deserialize;

/// Most sources of one image.
const MOST_SOURCES: usize = 8;

/// Most packages of one recipe.
const MOST_PACKAGES: usize = 500;

/// Most characters of what is there for people.
const MAX_TEXT: usize = 200;

/// What `mmdebstrap` can start with: mmdebstrap(1), "VARIANTS", without those that are made by hand.
const VARIANTS: [&str; 7] = ["essential", "apt", "minbase", "required", "important", "buildd", "standard"];

/// An image in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogImage {
    /// What it is called.
    pub name: ImageName,
    /// What it is, in a line.
    pub description: Text,
    /// Whose system it is.
    pub distro: Text,
    /// For which processors.
    #[serde(default)]
    pub arch: Arch,
    /// The kernel that suits it.
    pub kernel: Option<Name>,
    /// What it takes on the disk, about.
    #[serde(deserialize_with = "size")]
    pub size: Size,
    /// Where it comes from; the first that can be reached gives it.
    #[serde(rename = "source", deserialize_with = "sources")]
    pub sources: Vec<Source>,
}

/// A line for people: printable, at most 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Text(String);

impl TryFrom<String> for Text {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.chars().count() > MAX_TEXT || text.contains(char::is_control) {
            return Err(format!("it has to be one line of 1 to {MAX_TEXT} characters"));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Processors that VMs have.
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

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSource")]
pub enum Source {
    /// A registry.
    Oci(Reference),
    /// A file made by `banger image bundle`.
    Bundle {
        /// Where it is.
        place: Place,
        /// Of all its bytes.
        sha256: Digest,
    },
    /// Packages of Debian.
    Mmdebstrap(Recipe),
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Path(PathBuf),
    /// Elsewhere.
    Url(String),
}

impl Source {
    /// What it is called in a registry, if it is in one.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Oci(reference) => Some(reference),
            Self::Bundle { .. } | Self::Mmdebstrap(_) => None,
        }
    }

    /// What kind it is, as its key in the catalog says.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Oci(_) => "oci",
            Self::Bundle { .. } => "bundle",
            Self::Mmdebstrap(_) => "mmdebstrap",
        }
    }
}

/// How `mmdebstrap` makes an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Debian's release.
    pub suite: String,
    /// What `mmdebstrap` calls the set of packages to start with.
    pub variant: String,
    /// Packages added to that.
    #[serde(default)]
    pub packages: Vec<String>,
}

/// A source as it is written: one of these.
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
                let place = if Path::new(&bundle).is_absolute() {
                    Place::Path(PathBuf::from(bundle))
                } else if is_url(&bundle) {
                    Place::Url(bundle)
                } else {
                    return Err(format!("bundle {bundle:?} has to be a URL, or a whole path, from / on"));
                };
                let sha256 = sha256.ok_or("a bundle needs its sha256")?;
                let sha256 = format!("sha256:{}", sha256.strip_prefix("sha256:").unwrap_or(&sha256));
                let sha256 = sha256.parse().map_err(|_| "sha256 has to be 64 of 0-9 and a-f".to_owned())?;
                Ok(Self::Bundle { place, sha256 })
            }
            RawSource { oci: None, bundle: None, sha256: None, mmdebstrap: Some(recipe) } => {
                recipe.check().map(|()| Self::Mmdebstrap(recipe))
            }
            _ => Err("a source has one of oci, bundle (with sha256) and mmdebstrap".to_owned()),
        }
    }
}

impl Recipe {
    /// Refuses what would be more than a word of `mmdebstrap`'s arguments or of an apt source.
    fn check(&self) -> Result<(), String> {
        if !is_word(&self.suite) {
            return Err(format!("{:?} is no release of Debian", self.suite));
        }
        if !VARIANTS.contains(&self.variant.as_str()) {
            return Err(format!("variant {:?} is none of {}", self.variant, VARIANTS.join(", ")));
        }
        if self.packages.len() > MOST_PACKAGES {
            return Err(format!("more than {MOST_PACKAGES} packages"));
        }
        match self.packages.iter().find(|package| !is_word(package)) {
            Some(package) => Err(format!("{package:?} is no package's name")),
            None => Ok(()),
        }
    }
}

/// Whether a text is what Debian calls a release or a package: no option, and one word wherever it is put.
pub(super) fn is_word(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= MAX_TEXT && text.chars().all(rest)
}

/// Whether a text is a URL of https or http.
pub(super) fn is_url(text: &str) -> bool {
    // As it was written: what is parsed has lost what cannot be in one.
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.as_str() == text)
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn sources<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Source>, D::Error> {
    let sources = Vec::<Source>::deserialize(deserializer)?;
    match sources.len() {
        1..=MOST_SOURCES => Ok(sources),
        _ => Err(serde::de::Error::custom(format!("an image has 1 to {MOST_SOURCES} sources"))),
    }
}
