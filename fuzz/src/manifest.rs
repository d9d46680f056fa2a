//! Parses an image's manifest, index or configuration: an error of bounded length, or values within all limits.

use banger_api::Digest;
use banger_image::{Document, parse_config, parse_document};

pub(crate) fn run(data: &[u8]) {
    let digest = Digest::sha256([7; 32]);
    match parse_document(data, digest) {
        Ok(Document::Index(index)) => _ = index.choose().map(|entry| entry.digest.to_string()),
        Ok(Document::Manifest(manifest)) => {
            // The same bytes may be valid as a manifest and as its configuration.
            if let Ok(manifest) = manifest.configure(data) {
                assert_eq!(manifest.digest, digest);
            }
        }
        Err(error) => assert!(error.to_string().len() < 4096),
    }
    if let Ok((config, _)) = parse_config(data) {
        let words = config.env.iter().chain(&config.entrypoint).chain(&config.cmd);
        assert!(words.into_iter().all(|word| !word.contains('\0')));
    }
}
