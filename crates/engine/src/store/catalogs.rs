//! The newest signature of each catalog at a URL. It outlives the cached copy, so that no server can bring back an older
//! version.

use std::collections::HashMap;

use banger_api::config::CatalogUrl;
use rusqlite::params;

use super::{Store, StoreError};
use crate::step::Step;

/// When the newest version of each catalog was signed, in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SignedTimes(HashMap<(String, String), u64>);

impl SignedTimes {
    /// Returns when the newest version of a catalog was signed, or 0 if it is not known.
    pub(crate) fn newest(&self, source: &CatalogUrl) -> u64 {
        self.0.get(&(source.url.clone(), source.key.clone())).copied().unwrap_or_default()
    }
}

impl Store {
    /// Returns when each catalog was signed.
    pub(crate) fn signed_times(&self) -> Result<SignedTimes, StoreError> {
        let times = self.query("SELECT url, key, signed_at FROM catalogs", [], |row| {
            let signed_at: i64 = row.get("signed_at")?;
            Ok(((row.get("url")?, row.get("key")?), signed_at.cast_unsigned()))
        })?;
        Ok(SignedTimes(times.into_iter().collect()))
    }

    /// Records that a version of a catalog was signed at this time, unless a newer one is known. Returns false then.
    pub(crate) fn record_catalog(&self, source: &CatalogUrl, signed_at: u64) -> Result<bool, StoreError> {
        // SQLite's integers are signed. No clock is beyond them.
        let signed_at = i64::try_from(signed_at).unwrap_or(i64::MAX);
        let insert = "INSERT INTO catalogs (url, key, signed_at) VALUES (?, ?, ?)
            ON CONFLICT (url, key) DO UPDATE SET signed_at = excluded.signed_at
            WHERE excluded.signed_at >= signed_at";
        Ok(self.execute(Step::CatalogRecord, insert, params![source.url, source.key, signed_at])? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_time_of_each_url_and_key_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        let source = |url: &str, key: &str| CatalogUrl { url: url.to_owned(), key: key.to_owned() };
        let (one, two) = (source("a", "k"), source("a", "l"));
        for (source, signed_at, is_newest) in
            [(&one, 5, true), (&one, 5, true), (&one, 4, false), (&two, 1, true), (&one, u64::MAX, true)]
        {
            assert_eq!(store.record_catalog(source, signed_at).unwrap(), is_newest, "{signed_at}");
        }
        let times = store.signed_times().unwrap();
        let newest = [&one, &two, &source("b", "k")].map(|source| times.newest(source));
        assert_eq!(newest, [i64::MAX.cast_unsigned(), 1, 0]);
    }
}
