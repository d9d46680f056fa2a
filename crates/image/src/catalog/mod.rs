//! Images and kernels that can be fetched by name: from Debian's signed packages, or as files of known digests.

mod image;
mod kernel;
mod sources;

use std::fmt;
use std::sync::OnceLock;

use banger_api::Digest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

pub use image::fetch_image;
pub use kernel::fetch_kernel;

/// What can be fetched by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Images, in the order to show them.
    #[serde(rename = "image")]
    pub images: Vec<CatalogImage>,
    /// Kernels, in the order to show them.
    #[serde(rename = "kernel")]
    pub kernels: Vec<CatalogKernel>,
}

/// An image in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogImage {
    /// What it is called.
    pub name: String,
    /// The catalog's kernel that suits it.
    pub kernel: Option<String>,
    /// Debian's release.
    pub suite: String,
    /// What `mmdebstrap` calls the set of packages to start with.
    pub variant: String,
    /// Packages added to that.
    pub packages: Vec<String>,
    /// What making it takes on the disk, about, in MiB.
    pub space_mib: u64,
}

/// A kernel in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogKernel {
    /// What it is called.
    pub name: String,
    /// What it is, in a line for people.
    pub description: String,
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
        suite: String,
        /// The kernel's package, or one that depends on the newest.
        package: String,
    },
    /// Files, which together are one kernel: packages, a kernel, a tar as `import_kernel` takes.
    Files(Vec<Download>),
}

/// A file that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// Where it is.
    pub url: String,
    /// Its digest; written as 64 hexadecimal digits.
    #[serde(deserialize_with = "sha256")]
    pub sha256: Digest,
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let digits = String::deserialize(deserializer)?;
    format!("sha256:{digits}").parse().map_err(D::Error::custom)
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

/// The catalog that this program was built with.
pub fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    // A test reads it whole; there is no other way to a mistake in it.
    CATALOG.get_or_init(|| parse().unwrap_or_default())
}

fn parse() -> Result<Catalog, toml::de::Error> {
    toml::from_str(include_str!("catalog.toml"))
}

impl Catalog {
    /// The image called `name`.
    pub fn image(&self, name: &str) -> Option<&CatalogImage> {
        self.images.iter().find(|image| image.name == name)
    }

    /// The kernel called `name`.
    pub fn kernel(&self, name: &str) -> Option<&CatalogKernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_sound() {
        let catalog = parse().unwrap();
        for image in &catalog.images {
            assert!(image.kernel.iter().all(|kernel| catalog.kernel(kernel).is_some()), "{}", image.name);
            assert!(!image.packages.iter().any(|package| package.contains([',', ' ', '/'])));
        }
        for kernel in &catalog.kernels {
            assert!(!kernel.description.is_empty() && kernel.space_mib > 0, "{}", kernel.name);
            if let KernelSource::Files(files) = &kernel.source {
                assert!(!files.is_empty() && files.iter().all(|file| file.url.starts_with("https://")));
            }
        }
        let image = super::catalog().image("debian-bookworm").unwrap();
        assert_eq!(image.kernel.as_deref(), Some("debian-cloud"));
        assert!(super::catalog().kernel("none").is_none());
    }
}
