//! Kernel entries of a catalog. Parsing validates every field, because catalogs are untrusted.

use std::fmt;

use banger_api::{Digest, Name};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::entry::{Text, is_url, is_word};

/// Maximum number of files of a kernel.
const MAX_FILES: usize = 16;

/// A kernel in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogKernel {
    /// The kernel's name.
    pub name: Name,
    /// One-line description.
    pub description: Text,
    /// The kernel's source.
    pub source: KernelSource,
    /// Approximate disk space needed to fetch the kernel, in MiB.
    pub space_mib: u64,
}

/// A source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelSource {
    /// A Debian package, found and verified by apt.
    Apt {
        /// Debian's release.
        #[serde(deserialize_with = "word")]
        suite: String,
        /// The kernel's package, or a package that depends on the newest kernel.
        #[serde(deserialize_with = "word")]
        package: String,
    },
    /// Files that together form one kernel: packages, a kernel, or a tar as accepted by `import_kernel`.
    Files(#[serde(deserialize_with = "files")] Vec<Download>),
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// The file's URL.
    #[serde(deserialize_with = "url")]
    pub url: String,
    /// The file's digest, written as 64 hexadecimal digits.
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
    if is_word(&text) {
        Ok(text)
    } else {
        Err(D::Error::custom(format!("{text:?} is not a name of a Debian release or package")))
    }
}

fn files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Download>, D::Error> {
    let files = Vec::<Download>::deserialize(deserializer)?;
    match files.len() {
        1..=MAX_FILES => Ok(files),
        _ => Err(D::Error::custom(format!("a kernel has 1 to {MAX_FILES} files"))),
    }
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    if is_url(&url) { Ok(url) } else { Err(D::Error::custom(format!("{url:?} is not an https or http URL"))) }
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let digits = String::deserialize(deserializer)?;
    format!("sha256:{digits}").parse().map_err(D::Error::custom)
}
