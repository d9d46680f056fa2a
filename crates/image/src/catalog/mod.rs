//! Images and kernels that can be fetched by name, from Debian's signed packages.

mod image;
mod kernel;
mod sources;

use std::sync::OnceLock;

use serde::Deserialize;

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
    /// Debian's release.
    pub suite: String,
    /// The kernel's package, or one that depends on the newest.
    pub package: String,
    /// What getting it takes on the disk, about, in MiB.
    pub space_mib: u64,
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
        let image = super::catalog().image("debian-bookworm").unwrap();
        assert_eq!(image.kernel.as_deref(), Some("debian-cloud"));
        assert!(super::catalog().kernel("none").is_none());
    }
}
