//! The journal: resources that a VM has taken from the host, or was about to take.
//!
//! A row is written before its resource is taken, and deleted after the resource is released. So whatever kills the
//! daemon, the next one finds every held resource here.

use banger_api::Id;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Store, StoreError, json, to_json};
use crate::{resource::Resource, step::Step};

/// Lifetime of a held resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// For the VM's lifetime.
    Vm,
    /// While the VM runs.
    Run,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Run => "run",
        }
    }
}

/// A row of the journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalRow {
    pub(crate) id: i64,
    pub(crate) resource: Resource,
}

impl Store {
    /// Records a resource that is about to be taken. A row left by a daemon that was killed before it took the
    /// resource is reused.
    pub(crate) fn journal(&self, vm: &Id, scope: Scope, resource: &Resource) -> Result<i64, StoreError> {
        self.write(resource.journal_step(), |transaction| insert(transaction, vm, scope, resource))
    }

    /// Updates a row with more about its resource.
    pub(crate) fn update_journal_row(&self, row: i64, resource: &Resource) -> Result<(), StoreError> {
        self.execute(
            Step::JournalUpdate,
            "UPDATE journal SET resource = ? WHERE id = ?",
            params![to_json("resource", resource)?, row],
        )?;
        Ok(())
    }

    /// Deletes the row of a released resource.
    pub(crate) fn delete_journal_row(&self, row: &JournalRow) -> Result<(), StoreError> {
        self.execute(row.resource.delete_step(), "DELETE FROM journal WHERE id = ?", [row.id])?;
        Ok(())
    }

    /// Returns the processes with this pid that VMs hold. At most one of them can still run.
    pub(crate) fn journalled_processes(&self, pid: u32) -> Result<Vec<Resource>, StoreError> {
        let select = "SELECT resource FROM journal WHERE json_extract(resource, '$.pid') = ?";
        self.query(select, [pid], |row| json(row, "resource"))
    }

    /// Returns what `vm` holds, the last taken first. [`Scope::Run`] limits that to resources held while it runs.
    pub(crate) fn journal_of(&self, vm: &Id, scope: Scope) -> Result<Vec<JournalRow>, StoreError> {
        let select = "SELECT id, resource FROM journal WHERE vm_id = ?1 AND (scope = 'run' OR ?2 = 'vm') ORDER BY id DESC";
        self.query(select, params![vm.as_str(), scope.as_str()], |row| {
            Ok(JournalRow { id: row.get("id")?, resource: json(row, "resource")? })
        })
    }
}

/// Inserts a row, unless there is one of the same resource. Returns its id.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    vm: &Id,
    scope: Scope,
    resource: &Resource,
) -> Result<i64, StoreError> {
    let values = params![vm.as_str(), scope.as_str(), to_json("resource", resource)?];
    let same = "SELECT id FROM journal WHERE vm_id = ? AND scope = ? AND resource = ?";
    if let Some(row) = transaction.prepare_cached(same)?.query_row(values, |row| row.get(0)).optional()? {
        return Ok(row);
    }
    let insert = "INSERT INTO journal (vm_id, scope, resource) VALUES (?, ?, ?)";
    Ok(transaction.prepare_cached(insert)?.insert(values)?)
}
