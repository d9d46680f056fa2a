//! Parses an image reference: its name stays the same when it is completed, pinned and parsed again.

use banger_api::{Digest, Reference};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let whole = reference.to_string();
        assert_eq!(whole.parse::<Reference>().expect("a whole reference").name(), reference.name());
        assert!(!whole.contains(|c: char| c.is_whitespace() || c.is_control()));
        let pinned = reference.name_of(Digest::sha256([1; 32])).reference().expect("a name is a reference");
        assert_eq!((pinned.registry(), pinned.repository()), (reference.registry(), reference.repository()));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}
