//! Verifies a catalog that follows its signature: an error that names the key, or the catalog that was signed.

use banger_image::SignedCatalog;

/// A key of minisign; `corpus/signed` has a catalog that it signed.
const KEY: &str = "RWT2PdTQEioWjJPyBFfY+Olm4eSM9Rm7mtaocVuU4VrTt2AaxQ8QPqyE";

pub(crate) fn run(data: &[u8]) {
    let catalog = SignedCatalog { url: "https://example.com/catalog.toml", key: KEY };
    match catalog.read(data) {
        Ok(verified) => {
            assert_eq!(verified.catalog.images[0].name.as_str(), "x");
            assert_eq!(verified.signed_at, 1_795_999_222);
        }
        Err(error) => assert!(error.to_string().contains(KEY)),
    }
}
