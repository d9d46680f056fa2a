//! A way for fuzzers to what is between layers' bytes and a file system.

use std::io::Cursor;

use super::declare::Measure;
use super::index::{Index, Merge};
use crate::{ImageError, Silent};

/// Puts the tars `layers` over one another, and measures what comes of it.
///
/// # Errors
/// As a pull of such layers.
pub fn merge(layers: &[&[u8]]) -> Result<u64, ImageError> {
    let mut merge = Merge::new();
    for layer in layers {
        merge.layer(Index::of(Cursor::new(layer), &Silent)?)?;
    }
    Ok(Measure::of(&merge.tree()).entries)
}
