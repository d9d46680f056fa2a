//! Catalogs at URLs. banger reads a catalog only after verifying its signature.
//!
//! A signature alone does not say which catalog it is for, so a server could send another one with the same key, or an
//! older version. Therefore a catalog lists its URLs, and its signature must have the time that minisign(1) writes.

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

/// A catalog whose signature is valid and which is for its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCatalog {
    /// The catalog.
    pub catalog: Catalog,
    /// When it was signed, in seconds since 1970.
    pub signed_at: u64,
}

impl SignedCatalog<'_> {
    /// Downloads and verifies the catalog. Returns the signature followed by the catalog, for caching, and what was read
    /// from them.
    ///
    /// # Errors
    /// As [`download`] and [`read`](Self::read).
    pub fn fetch(
        &self,
        registries: &Registries,
        work: &Path,
        progress: &dyn Progress,
    ) -> Result<(Vec<u8>, VerifiedCatalog), ImageError> {
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
        let verified = self.read(&signed)?;
        Ok((signed, verified))
    }

    /// Verifies and parses a catalog that follows its signature.
    ///
    /// # Errors
    /// Returns an error if the signature is not the key's signature of the rest, or has no time; or if the rest is not a
    /// catalog, or not a catalog for this URL.
    pub fn read(&self, signed: &[u8]) -> Result<VerifiedCatalog, ImageError> {
        let (signature, text) = self.verify(signed)?;
        let mut fields = signature.trusted_comment().split_whitespace();
        let signed_at = fields.find_map(|field| field.strip_prefix("timestamp:")?.parse().ok());
        let signed_at = signed_at
            .ok_or_else(|| self.refused("its trusted comment has no timestamp:SECONDS".to_owned()))?;
        let text = std::str::from_utf8(text).map_err(|error| self.refused(error.to_string()))?;
        let catalog = Catalog::parse(text)
            .map_err(|source| ImageError::Catalog { url: self.url.to_owned(), source })?;
        if !catalog.urls.iter().any(|url| url == self.url) {
            let problem = match catalog.urls.as_slice() {
                [] => "it does not list the URLs that it is for: urls = [\"URL\"] is missing".to_owned(),
                urls => format!("its urls are others: {}", urls.join(", ")),
            };
            return Err(self.refused(problem));
        }
        Ok(VerifiedCatalog { catalog, signed_at })
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
    const KEY: &str = "RWQm4TMvKnyhgN1zKArzye2bDVdCQsIvtqnA3kQdjjHjp3uqs4sjPCyu";
    const TEXT: &str = "\
         urls = ['https://a.test/catalog.toml', 'https://mirror.test/c.toml']\n\
         [[image]]\n\
         name = 'x'\n\
         description = 'X'\n\
         distro = 'x'\n\
         size = '1G'\n\
         source = [{ oci = 'a' }]\n";
    const SIGNATURE: &str = "\
         untrusted comment: signature from minisign secret key\n\
         RUQm4TMvKnyhgJPLJYatvRFvetyOdAvAJz1+gLwSsAArAGC95sbz4FHpuzk3drmqViY3Ih5aeaji/1Pl2RvYdoXZjg+Orb4WngU=\n\
         trusted comment: timestamp:1795998227\tfile:c.toml\thashed\n\
         149mo45uMScg7HNvwbHixOLn0DuTRoxWyhCDC9cjUydnM1H4FK2pVx/GbfTAwPHyBtH0iuiyUbxQhBmUrEC1Cg==\n";
    /// Of the same text, with another comment.
    const WITHOUT_TIME: &str = "\
         untrusted comment: signature from minisign secret key\n\
         RUQm4TMvKnyhgJPLJYatvRFvetyOdAvAJz1+gLwSsAArAGC95sbz4FHpuzk3drmqViY3Ih5aeaji/1Pl2RvYdoXZjg+Orb4WngU=\n\
         trusted comment: file:c.toml\n\
         EQ7qnPkHUmTa6cx6/KS8A87hrIxRXWiPc00XIS3e1w99B3C4DblZ0c5+d9c+6IoD9ztGs0Oq9kq8mPmb4tp4AA==\n";
    /// Of the text without its first line.
    const WITHOUT_URLS: &str = "\
         untrusted comment: signature from minisign secret key\n\
         RUQm4TMvKnyhgKzmiA9rQ2yXVyaobHJ0E/MaRuEtdwDKWvJcQfpY7d52O2OgmYPJzQ8AHtaq9455vhJeMKjxUyASf/b0l6UD6AM=\n\
         trusted comment: timestamp:1795998227\tfile:d.toml\thashed\n\
         8eEpI06cIzjMOmmiag5GPQG5w1ND1YuN3HV++VzvXCufwuw3z1IA0a13Tc8BGfnmHvW+6vjoODKe5Z/rqdo7BA==\n";

    #[test]
    fn catalogs_without_a_valid_signature_are_rejected() {
        let catalog = SignedCatalog { url: "https://a.test/catalog.toml", key: KEY };
        let signed = format!("{SIGNATURE}{TEXT}");
        let verified = catalog.read(signed.as_bytes()).unwrap();
        assert_eq!(verified.catalog.images[0].name.as_str(), "x");
        assert_eq!(verified.signed_at, 1_795_998_227);
        for at in 0..signed.len() {
            let mut changed = signed.as_bytes().to_vec();
            changed[at] ^= 1;
            // The first line is a comment and is not signed.
            let ignored = signed.find('\n').unwrap();
            if at > ignored {
                let error = catalog.read(&changed).unwrap_err();
                assert!(matches!(&error, ImageError::Unsigned { .. }), "{at}: {error:?}");
                assert!(error.to_string().contains(KEY) && error.to_string().contains(catalog.url));
            }
        }
        let other = KEY.replace("PCyu", "PCyv");
        assert!(SignedCatalog { key: &other, ..catalog }.read(signed.as_bytes()).is_err());
        for text in ["", "\n\n\n\n", "a\nb\nc\nd\n[[image]]"] {
            assert!(catalog.read(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_valid_signature_is_for_the_catalogs_urls_and_has_a_time() {
        let without_urls = TEXT.split_once('\n').unwrap().1;
        for (url, signature, text, problem) in [
            ("https://a.test/catalog.toml", SIGNATURE, TEXT, None),
            ("https://mirror.test/c.toml", SIGNATURE, TEXT, None),
            (
                "https://a.test/testing.toml",
                SIGNATURE,
                TEXT,
                Some("its urls are others: https://a.test/catalog.toml, "),
            ),
            ("http://a.test/catalog.toml", SIGNATURE, TEXT, Some("its urls are others")),
            ("https://a.test/catalog.toml", WITHOUT_URLS, without_urls, Some("urls = [\"URL\"] is missing")),
            ("https://a.test/catalog.toml", WITHOUT_TIME, TEXT, Some("has no timestamp")),
        ] {
            let read = SignedCatalog { url, key: KEY }.read(format!("{signature}{text}").as_bytes());
            let found = read.err().map(|error| error.to_string());
            let as_expected = found
                .as_deref()
                .map_or(problem.is_none(), |found| problem.is_some_and(|problem| found.contains(problem)));
            assert!(as_expected, "{url}: {found:?}");
        }
    }
}
