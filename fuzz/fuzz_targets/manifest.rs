//! What a registry or an archive may say that an image is: refused, or within all limits.
#![no_main]

use banger_api::Digest;
use banger_image::{Document, parse_config, parse_document};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let digest = Digest::sha256([7; 32]);
    match parse_document(bytes, digest) {
        Ok(Document::Index(index)) => _ = index.choose().map(|entry| entry.digest.to_string()),
        Ok(Document::Manifest(manifest)) => {
            // As its own configuration, too: nothing says that they differ.
            if let Ok(manifest) = manifest.configure(bytes) {
                assert_eq!(manifest.digest, digest);
            }
        }
        Err(error) => assert!(error.to_string().len() < 4096),
    }
    if let Ok((config, _)) = parse_config(bytes) {
        let words = config.env.iter().chain(&config.entrypoint).chain(&config.cmd);
        assert!(words.into_iter().all(|word| !word.contains('\0')));
    }
});
