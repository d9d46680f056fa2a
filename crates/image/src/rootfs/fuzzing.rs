//! Merges layers without writing a file system, for fuzz targets.

use std::io::Cursor;

use super::declare::Measure;
use super::index::{Index, Merge};
use crate::{ImageError, Silent};

/// Merges the tars `layers` and returns the number of entries.
///
/// # Errors
/// Returns the errors that a pull of such layers returns.
pub fn merge(layers: &[&[u8]]) -> Result<u64, ImageError> {
    let mut merge = Merge::new();
    for layer in layers {
        merge.layer(Index::of(Cursor::new(layer), &Silent)?)?;
    }
    Ok(Measure::of(&merge.tree()).entries)
}
