//! Parsers of hostile bytes that have no other public function, for fuzz targets.

use crate::index::{Index, parse};

/// Parses git's index, with object ids of `id_length` bytes. Returns the paths of a complete one.
pub fn index_paths(bytes: &[u8], id_length: usize) -> Option<Vec<Vec<u8>>> {
    match parse(bytes, id_length) {
        Ok(Index::Complete(entries, _)) => Some(entries.into_iter().map(|entry| entry.path).collect()),
        _ => None,
    }
}
