//! Catalogs at URLs. banger reads a catalog only after verifying its signature.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use minisign_verify::{PublicKey, Signature};

use super::{Catalog, MAX_CATALOG};
use crate::error::IoContext;
use crate::oci::{Registries, RegistryError, Timing};
use crate::{DownloadRequest, ImageError, Progress, download};

/// Maximum length of a signature, in bytes: minisign(1) allows comments of 1 and 8 KiB.
const MAX_SIGNATURE: u64 = 16 << 10;

/// Number of lines in a signature.
const SIGNATURE_LINES: usize = 4;

/// Timeouts. They are short because a user may be waiting while a cached copy exists.
const TIMING: Timing = Timing {
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(10),
    back_off: Duration::from_millis(100),
};

/// A catalog at a URL, with the key that must sign it. The signature is at `URL.minisig`.
#[derive(Debug, Clone, Copy)]
pub struct SignedCatalog<'a> {
    /// The catalog's URL.
    pub url: &'a str,
    /// The public key as minisign(1) prints it.
    pub key: &'a str,
}

impl SignedCatalog<'_> {
    /// Downloads and verifies the catalog. Returns the signature followed by the catalog, for caching.
    ///
    /// # Errors
    /// As [`download`] and [`read`](Self::read).
    pub fn fetch(
        &self,
        registries: &Registries,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, ImageError> {
        let registries = Registries { timing: TIMING, ..registries.clone() };
        let get = |url: &str, limit| {
            let mut bytes = Vec::new();
            let mut file =
                download(&registries, DownloadRequest { url, sha256: None, limit }, work, progress)?;
            file.read_to_end(&mut bytes).during("read back the temporary file in", work)?;
            Ok(bytes)
        };
        let text = get(self.url, MAX_CATALOG)?;
        let signature_url = format!("{}.minisig", self.url);
        let mut signed = get(&signature_url, MAX_SIGNATURE).map_err(|error| match error {
            ImageError::Download { source, .. } if matches!(*source, RegistryError::NotFound { .. }) => {
                self.refused(format!("it is not signed: {signature_url} does not exist"))
            }
            error => error,
        })?;
        if signed.last() != Some(&b'\n') {
            signed.push(b'\n');
        }
        signed.extend(text);
        self.read(&signed)?;
        Ok(signed)
    }

    /// Verifies and parses a catalog that follows its signature.
    ///
    /// # Errors
    /// Returns an error if the signature is not the key's signature of the rest, or if the rest is not a catalog.
    pub fn read(&self, signed: &[u8]) -> Result<Catalog, ImageError> {
        let (_, text) = self.verify(signed)?;
        let text = std::str::from_utf8(text).map_err(|error| self.refused(error.to_string()))?;
        Catalog::parse(text).map_err(|source| ImageError::Catalog { url: self.url.to_owned(), source })
    }

    /// Returns when a catalog that follows its signature was signed, in seconds since 1970.
    ///
    /// `None` if the signature is invalid, or if the trusted comment has no timestamp because minisign(1) was given
    /// another comment.
    #[must_use]
    pub fn signed_at(&self, signed: &[u8]) -> Option<u64> {
        let (signature, _) = self.verify(signed).ok()?;
        let mut fields = signature.trusted_comment().split_whitespace();
        fields.find_map(|field| field.strip_prefix("timestamp:"))?.parse().ok()
    }

    /// Verifies the signature, and returns it and the catalog that follows it.
    fn verify<'a>(&self, signed: &'a [u8]) -> Result<(Signature, &'a [u8]), ImageError> {
        let line_ends = signed.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let (signature, text) = line_ends
            .take(SIGNATURE_LINES)
            .nth(SIGNATURE_LINES - 1)
            .and_then(|at| signed.split_at_checked(at))
            .ok_or_else(|| self.refused("its signature is incomplete".to_owned()))?;
        let refused = |error: minisign_verify::Error| self.refused(error.to_string());
        let key = PublicKey::from_base64(self.key).map_err(refused)?;
        let signature = std::str::from_utf8(signature).unwrap_or_default();
        let signature = Signature::decode(signature).map_err(refused)?;
        // Rejects signatures of minisign before 0.10 (legacy): the signature does not cover its own kind.
        key.verify(text, &signature, false).map_err(refused)?;
        Ok((signature, text))
    }

    fn refused(&self, problem: String) -> ImageError {
        ImageError::Unsigned { url: self.url.to_owned(), key: self.key.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Created by minisign 0.11.
    const KEY: &str = "RWTLbQPlU81T4uSwOG8iGzswRA9ckd+MNEHQMePZUM6k/8djojzL6lpM";
    const SIGNED: &str = "\
         untrusted comment: signature from minisign secret key\n\
         RUTLbQPlU81T4iuXUiEHTFFW1ezYfZ2HZs2Zl89QdC6wf5vIylEc0bdz87jIwiNOHhZq/gB+tKxGINEMo4C3mhw+meaAS2eVrwY=\n\
         trusted comment: timestamp:1795714688\tfile:c.toml\thashed\n\
         zyZG1rKA2+M/3f76hoQVmZvOd0K9zZfyp7r2m2S2/NDQ3t2baOQCrFIqHwQrLrdc+lmWU9rYsCkHutIvBMcQDA==\n\
         [[image]]\n\
         name = 'x'\n\
         description = 'X'\n\
         distro = 'x'\n\
         size = '1G'\n\
         source = [{ oci = 'a' }]\n";

    #[test]
    fn catalogs_without_a_valid_signature_are_rejected() {
        let catalog = SignedCatalog { url: "https://a.test/catalog.toml", key: KEY };
        assert_eq!(catalog.read(SIGNED.as_bytes()).unwrap().images[0].name.as_str(), "x");
        assert_eq!(catalog.signed_at(SIGNED.as_bytes()), Some(1_795_714_688));
        assert_eq!(catalog.signed_at(SIGNED.replace("1795714688", "1895714688").as_bytes()), None);
        for at in 0..SIGNED.len() {
            let mut changed = SIGNED.as_bytes().to_vec();
            changed[at] ^= 1;
            // The first line is a comment and is not signed.
            let ignored = SIGNED.find('\n').unwrap();
            if at > ignored {
                let error = catalog.read(&changed).unwrap_err();
                assert!(matches!(&error, ImageError::Unsigned { .. }), "{at}: {error:?}");
                assert!(error.to_string().contains(KEY) && error.to_string().contains(catalog.url));
            }
        }
        let other = KEY.replace("lpM", "lpN");
        assert!(SignedCatalog { key: &other, ..catalog }.read(SIGNED.as_bytes()).is_err());
        for text in ["", "\n\n\n\n", "a\nb\nc\nd\n[[image]]"] {
            assert!(catalog.read(text.as_bytes()).is_err());
        }
    }
}
