//! Parses git's index, with ids of SHA-256 if the first byte is odd: the paths of a complete index have bounded sizes.

use banger_workspace::fuzzing::index_paths;

pub(crate) fn run(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let id_length = if kind % 2 == 1 { 32 } else { 20 };
    let paths = index_paths(bytes, id_length).unwrap_or_default();
    assert!(paths.len() <= bytes.len() / id_length);
    // Version 4 has only the end of a path that begins like the previous one.
    assert!(paths.iter().all(|path| path.len() <= bytes.len() && !path.contains(&0)));
}
