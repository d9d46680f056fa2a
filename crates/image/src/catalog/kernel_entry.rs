//! A kernel's entry, checked field by field where it is read: a catalog may be anybody's.

use std::fmt;

use banger_api::{Digest, Name};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::entry::{Text, is_url, is_word};

/// Most files of one kernel.
const MOST_FILES: usize = 16;

/// A kernel in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogKernel {
    /// What it is called.
    pub name: Name,
    /// What it is, in a line for people.
    pub description: Text,
    /// Where it comes from.
    pub source: KernelSource,
    /// What getting it takes on the disk, about, in MiB.
    pub space_mib: u64,
}

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelSource {
    /// A package of Debian's, found and verified by apt.
    Apt {
        /// Debian's release.
        #[serde(deserialize_with = "word")]
        suite: String,
        /// The kernel's package, or one that depends on the newest.
        #[serde(deserialize_with = "word")]
        package: String,
    },
    /// Files, which together are one kernel: packages, a kernel, a tar as `import_kernel` takes.
    Files(#[serde(deserialize_with = "files")] Vec<Download>),
}

/// A file that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Where it is.
    #[serde(deserialize_with = "url")]
    pub url: String,
    /// Its digest; written as 64 hexadecimal digits.
    #[serde(deserialize_with = "sha256")]
    pub sha256: Digest,
}

impl fmt::Display for KernelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt { suite, package } => write!(f, "{package} of Debian {suite}"),
            Self::Files(files) => {
                let urls: Vec<_> = files.iter().map(|file| file.url.as_str()).collect();
                f.write_str(&urls.join(" "))
            }
        }
    }
}

fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_word(&text) { Ok(text) } else { Err(D::Error::custom(format!("{text:?} is no name of Debian's"))) }
}

fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Download>, D::Error> {
    let files = Vec::<Download>::deserialize(deserializer)?;
    match files.len() {
        1..=MOST_FILES => Ok(files),
        _ => Err(D::Error::custom(format!("a kernel has 1 to {MOST_FILES} files"))),
    }
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    if is_url(&url) { Ok(url) } else { Err(D::Error::custom(format!("{url:?} is no URL of https or http"))) }
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let digits = String::deserialize(deserializer)?;
    format!("sha256:{digits}").parse().map_err(D::Error::custom)
}
