//! `[[catalog]]`: catalogs at URLs.

use serde::Serialize;
use toml::de::DeTable;

use super::lists::{check_keys, text};

/// Length of a minisign public key in characters: base64 of 42 bytes.
const KEY_LENGTH: usize = 56;

/// A catalog at a URL, and the key that must have signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogUrl {
    /// The catalog's URL; its signature is at `URL.minisig`.
    pub url: String,
    /// The public key, as minisign(1) prints it.
    pub key: String,
}

impl CatalogUrl {
    pub(super) fn read(table: &DeTable<'_>) -> Result<Self, String> {
        check_keys(table, &["url", "key"])?;
        let url = text(table, "url")?.ok_or("url is missing: the URL of the catalog")?;
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
        if rest.is_empty() || rest.contains(|c: char| matches!(c, '?' | '#' | '@') || !c.is_ascii_graphic()) {
            return Err(format!("url {url:?} must be an https URL without ?, # or @"));
        }
        let key = text(table, "key")?.ok_or("key is missing: the public key that minisign prints")?;
        let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
        if key.len() != KEY_LENGTH || !key.chars().all(base64) {
            return Err(format!("key {key:?} is not a minisign public key such as RWQ..."));
        }
        Ok(Self { url, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lists::entries;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn read(text: &str) -> Result<Vec<CatalogUrl>, String> {
        let table = DeTable::parse(text).unwrap();
        entries("catalog", table.get_ref().get("catalog").unwrap().get_ref(), CatalogUrl::read)
    }

    #[test]
    fn catalog_entries_need_a_valid_url_and_key() {
        let read_one = |url: &str, key: &str| read(&format!("[[catalog]]\nurl = '{url}'\nkey = '{key}'\n"));
        assert_eq!(read_one("https://a.io/c.toml", KEY).unwrap()[0].key, KEY);
        for (url, key, why) in [
            ("a.io/c.toml", KEY, "must be an https URL"),
            ("https://", KEY, "must be an https URL"),
            ("https://a.io/c?token=1", KEY, "must be an https URL"),
            ("https://me:secret@a.io/c", KEY, "must be an https URL"),
            ("https://a.io/c d", KEY, "must be an https URL"),
            ("https://a.io/c.toml", "", "is not a minisign public key"),
            ("https://a.io/c.toml", &KEY.replace('Q', "-"), "is not a minisign public key"),
        ] {
            let error = read_one(url, key).unwrap_err();
            assert!(error.starts_with("entry 1: ") && error.contains(why), "{url} {key}: {error}");
        }
        assert!(read(&format!("[[catalog]]\nkey = '{KEY}'\n")).unwrap_err().contains("url is missing"));
        assert!(read("[[catalog]]\nurl = 'https://a.io/c'\n").unwrap_err().contains("key is missing"));
    }
}
