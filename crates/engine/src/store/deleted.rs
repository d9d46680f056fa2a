//! Ids of deleted VMs, images and kernels. Their directories may return after a power loss, because removals are not
//! synced to the disk.

use std::collections::HashSet;

use banger_api::Id;
use rusqlite::Transaction;

use super::{Store, StoreError};
use crate::step::Step;

impl Store {
    /// Returns the ids that were deleted since they were last cleared.
    pub(crate) fn deleted_ids(&self) -> Result<HashSet<String>, StoreError> {
        let ids = self.query("SELECT id FROM deleted", [], |row| Ok(row.get("id")?))?;
        Ok(ids.into_iter().collect())
    }

    /// Clears the ids of deleted objects, once their directories are gone for good.
    pub(crate) fn clear_deleted_ids(&self) -> Result<(), StoreError> {
        self.execute(Step::DeletedClear, "DELETE FROM deleted", [])?;
        Ok(())
    }
}

/// Records that an object is deleted, in the transaction that deletes its row.
pub(super) fn record(transaction: &Transaction<'_>, id: &Id) -> Result<(), StoreError> {
    let insert = "INSERT OR IGNORE INTO deleted (id) VALUES (?)";
    transaction.prepare_cached(insert)?.execute([id.as_str()])?;
    Ok(())
}
