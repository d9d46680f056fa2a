//! What a user may call an image: refused with a place, or the same once it has been completed and shortened.
#![no_main]

use banger_api::{Digest, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
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
});
