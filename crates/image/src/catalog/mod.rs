//! Images and kernels that can be fetched by name.
//!
//! Users' own catalogs override the built-in one.

mod entry;
mod image;
mod kernel;
mod kernel_entry;
mod signed;
mod sources;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::OnceLock;

use serde::Deserialize;
use toml::Spanned;

use crate::error::CatalogError;

pub use entry::{Arch, CatalogImage, Location, Recipe, Source, Text};
pub use image::{fetch_image, find_mmdebstrap};
pub use kernel::fetch_kernel;
pub use kernel_entry::{CatalogKernel, Download, KernelSource};
pub use signed::{SignedCatalog, VerifiedCatalog};

/// Maximum length of a catalog, in bytes.
pub const MAX_CATALOG: u64 = 1 << 20;

/// Maximum number of images, and of kernels, in a catalog.
const MAX_ENTRIES: usize = 1000;

/// A catalog of images and kernels that can be fetched by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The URLs at which it may be served. Only catalogs at URLs need them.
    pub urls: Vec<String>,
    /// Images, in display order.
    pub images: Vec<CatalogImage>,
    /// Kernels, in display order.
    pub kernels: Vec<CatalogKernel>,
}

/// A catalog as written in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    image: Vec<Spanned<CatalogImage>>,
    #[serde(default)]
    kernel: Vec<Spanned<CatalogKernel>>,
}

/// Returns the built-in catalog.
pub fn catalog() -> &'static Catalog {
    static CATALOG: OnceLock<Catalog> = OnceLock::new();
    // A test parses it, so the build contains no invalid catalog.
    CATALOG.get_or_init(|| Catalog::parse(EMBEDDED).unwrap_or_default())
}

const EMBEDDED: &str = include_str!("catalog.toml");

impl Catalog {
    /// Parses a catalog.
    ///
    /// # Errors
    /// Returns an error if `text` is not TOML, has an unknown key or an invalid value, or uses a name twice.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let error = |at: usize, problem: String| {
            let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
            CatalogError { line, problem }
        };
        let raw: Raw = toml::from_str(text)
            .map_err(|wrong| error(wrong.span().map_or(0, |span| span.start), wrong.message().to_owned()))?;
        let wrong = |(at, problem)| error(at, problem);
        let images = unique("image", raw.image, |image| image.name.clone()).map_err(wrong)?;
        let kernels = unique("kernel", raw.kernel, |kernel| kernel.name.clone()).map_err(wrong)?;
        Ok(Self { urls: raw.urls, images, kernels })
    }

    /// Merges `fallback` into this catalog. If both have an entry with the same name, this catalog's entry is kept.
    #[must_use]
    pub fn with_fallback(mut self, fallback: &Self) -> Self {
        let images = fallback.images.iter().filter(|image| self.image(image.name.as_str()).is_none());
        let images: Vec<_> = images.cloned().collect();
        let kernels = fallback.kernels.iter().filter(|kernel| self.kernel(kernel.name.as_str()).is_none());
        let kernels: Vec<_> = kernels.cloned().collect();
        self.images.extend(images);
        self.kernels.extend(kernels);
        self
    }

    /// Returns the image with this name.
    pub fn image(&self, name: &str) -> Option<&CatalogImage> {
        self.images.iter().find(|image| image.name.as_str() == name)
    }

    /// Returns the kernel with this name.
    pub fn kernel(&self, name: &str) -> Option<&CatalogKernel> {
        self.kernels.iter().find(|kernel| kernel.name.as_str() == name)
    }
}

/// Returns the entries, or the position of and reason for the first excess or duplicate entry.
fn unique<T, N: Eq + Hash + std::fmt::Display>(
    what: &str,
    entries: Vec<Spanned<T>>,
    name: impl Fn(&T) -> N,
) -> Result<Vec<T>, (usize, String)> {
    let mut seen = HashSet::new();
    for (count, entry) in entries.iter().enumerate() {
        let at = entry.span().start;
        if count == MAX_ENTRIES {
            return Err((at, format!("a catalog has at most {MAX_ENTRIES} {what}s")));
        }
        let name = name(entry.get_ref());
        if seen.contains(&name) {
            return Err((at, format!("duplicate {what} {name}")));
        }
        seen.insert(name);
    }
    Ok(entries.into_iter().map(Spanned::into_inner).collect())
}

#[cfg(test)]
mod tests;
