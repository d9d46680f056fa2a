//! Kernels in the store.

use banger_api::{EventKind, Id, Name, Named};
use jiff::Timestamp;
use rusqlite::params;

use super::{Store, StoreError, deleted, name_taken, parsed, returned_name};
use crate::step::Step;

/// A kernel's row.
#[derive(Debug, Clone)]
pub(crate) struct KernelRecord {
    pub(crate) id: Id,
    pub(crate) name: Name,
    pub(crate) release: String,
    pub(crate) modules: bool,
    pub(crate) pvh: bool,
    pub(crate) source: String,
    pub(crate) created_at: Timestamp,
}

impl Named for KernelRecord {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl Store {
    pub(crate) fn kernels(&self) -> Result<Vec<KernelRecord>, StoreError> {
        self.query("SELECT * FROM kernels ORDER BY name", [], |row| {
            Ok(KernelRecord {
                id: parsed(row, "id")?,
                name: parsed(row, "name")?,
                release: row.get("release")?,
                modules: row.get("modules")?,
                pvh: row.get("pvh")?,
                source: row.get("source")?,
                created_at: parsed(row, "created_at")?,
            })
        })
    }

    /// Inserts a kernel whose files are in place.
    pub(crate) fn insert_kernel(&self, kernel: &KernelRecord) -> Result<(), StoreError> {
        let insert = "INSERT INTO kernels VALUES (?, ?, ?, ?, ?, ?, ?)";
        let values = params![
            kernel.id.as_str(),
            kernel.name.as_str(),
            kernel.release,
            kernel.modules,
            kernel.pvh,
            kernel.source,
            kernel.created_at.to_string(),
        ];
        self.write_and_publish(Step::KernelInsert, |transaction| {
            transaction.execute(insert, values).map_err(|error| name_taken(error, kernel.name.as_str()))?;
            let created = EventKind::KernelCreated { id: kernel.id.clone(), name: kernel.name.clone() };
            Ok(((), Some(created)))
        })
    }

    /// Deletes a kernel's row; returns false if a VM uses it.
    pub(crate) fn delete_kernel(&self, id: &Id) -> Result<bool, StoreError> {
        let delete =
            "DELETE FROM kernels WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM vms WHERE kernel_id = ?1)
            RETURNING name";
        self.write_and_publish(Step::KernelDelete, |transaction| {
            let name = returned_name(transaction, delete, [id.as_str()])?;
            if name.is_some() {
                deleted::record(transaction, id)?;
            }
            let deleted = name.map(|name| EventKind::KernelDeleted { id: id.clone(), name });
            Ok((deleted.is_some(), deleted))
        })
    }
}
