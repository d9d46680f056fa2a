//! The journal: what a VM has taken from the host, or was about to.
//!
//! A row is written before its resource is taken, and goes when the resource has been given back; so whatever kills
//! the daemon, all that is held can be found from here.

use banger_api::Id;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, json, to_json};
use crate::{resource::Resource, step::Step};

/// For how long a resource is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// As long as there is the VM.
    Vm,
    /// As long as it runs.
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
    /// Writes down what is about to be taken. What is written down already, by a daemon that was killed before it took
    /// it, is not written again.
    pub(crate) fn journal(&self, vm: &Id, scope: Scope, resource: &Resource) -> Result<i64, StoreError> {
        let values = params![vm.as_str(), scope.as_str(), to_json("resource", resource)?];
        self.write(resource.journalled(), |transaction| {
            let same = "SELECT id FROM journal WHERE vm_id = ? AND scope = ? AND resource = ?";
            if let Some(row) =
                transaction.prepare_cached(same)?.query_row(values, |row| row.get(0)).optional()?
            {
                return Ok(row);
            }
            let insert = "INSERT INTO journal (vm_id, scope, resource) VALUES (?, ?, ?)";
            Ok(transaction.prepare_cached(insert)?.insert(values)?)
        })
    }

    /// Puts more about what was taken into its row.
    pub(crate) fn amend_journal(&self, row: i64, resource: &Resource) -> Result<(), StoreError> {
        self.execute(
            Step::JournalAmend,
            "UPDATE journal SET resource = ? WHERE id = ?",
            params![to_json("resource", resource)?, row],
        )?;
        Ok(())
    }

    /// Strikes what has been given back.
    pub(crate) fn strike_journal(&self, row: &JournalRow) -> Result<(), StoreError> {
        self.execute(row.resource.struck(), "DELETE FROM journal WHERE id = ?", [row.id])?;
        Ok(())
    }

    /// What `vm` holds, the last taken first; only what it holds while it runs, or all.
    pub(crate) fn journal_of(&self, vm: &Id, scope: Scope) -> Result<Vec<JournalRow>, StoreError> {
        let select = "SELECT id, resource FROM journal WHERE vm_id = ?1 AND (scope = 'run' OR ?2 = 'vm') ORDER BY id DESC";
        self.query(select, params![vm.as_str(), scope.as_str()], |row| {
            Ok(JournalRow { id: row.get("id")?, resource: json(row, "resource")? })
        })
    }
}
