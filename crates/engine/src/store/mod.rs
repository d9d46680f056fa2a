//! The store: one SQLite file with every VM, image and kernel, and the journal of what VMs hold of the host.
//!
//! Every access goes through [`Store`], which holds the one connection; each method is one transaction and takes
//! well under a millisecond, so async code calls them directly. WAL with `synchronous=NORMAL` survives the death of
//! the process at any point. It may lose the last commits with the host's power, and then what they spoke of is swept
//! as belonging to no row.

mod images;
mod journal;
mod kernels;
mod vms;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub(crate) use images::ImageRecord;
pub(crate) use journal::{JournalRow, Scope};
pub(crate) use kernels::KernelRecord;
pub(crate) use vms::{Handle, NewVm, VmRecord};

/// The schema, a step a version. A step that has shipped is never changed.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE images (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, entries INTEGER NOT NULL, os TEXT,
        init TEXT, kernel TEXT, source TEXT NOT NULL, created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE kernels (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, release TEXT NOT NULL, modules INTEGER NOT NULL,
        pvh INTEGER NOT NULL, source TEXT NOT NULL, created_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE vms (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images, kernel_id TEXT NOT NULL REFERENCES kernels,
        vcpu INTEGER NOT NULL, memory INTEGER NOT NULL, system_overlay_size INTEGER NOT NULL,
        disk_size INTEGER NOT NULL, vmm TEXT, rm INTEGER NOT NULL, cid INTEGER NOT NULL UNIQUE,
        acknowledged INTEGER NOT NULL DEFAULT 0, created_at TEXT NOT NULL, started_at TEXT, last_error TEXT,
        handle TEXT
    ) STRICT;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, vm_id TEXT NOT NULL REFERENCES vms,
        scope TEXT NOT NULL, resource TEXT NOT NULL
    ) STRICT;
    CREATE INDEX journal_vm ON journal (vm_id);
", "
    ALTER TABLE vms ADD COLUMN nat INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE vms ADD COLUMN last_used_at TEXT;
"];

/// How long a statement waits for another process (`sqlite3` in someone's hands) to let go of the file.
const BUSY: Duration = Duration::from_secs(5);

/// What the store says no with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is there and is not a store.
    #[error("the store {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A later banger has written it.
    #[error("the store {} has schema {found}, this build knows {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// The name is taken.
    #[error("the name {0} is taken")]
    NameTaken(String),
    /// A value in a row is not what this build writes.
    #[error("the store holds {what} that cannot be read: {source}")]
    Value {
        /// Which.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else.
    #[error("the store refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NameTaken(_) => Self::new(ErrorKind::AlreadyExists, message),
            StoreError::Unreadable { path, .. } => Self::new(ErrorKind::Store, message).hint(format!(
                "nothing was changed; to begin anew, move {} aside, with the -wal and -shm files beside it",
                path.display()
            )),
            StoreError::Newer { .. } => Self::new(ErrorKind::VersionSkew, message)
                .hint("run the newer banger that wrote it; nothing was changed"),
            _ => Self::new(ErrorKind::Store, message),
        }
    }
}

/// A number that no two stores of a user share, as far as 31 random bits go.
fn random_id() -> i32 {
    i32::from_be_bytes(crate::random()) & i32::MAX
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Store(Mutex<Connection>);

impl Store {
    /// Opens the store at `path`, making it if there is none, and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let unreadable = |source| StoreError::Unreadable { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(unreadable)?;
        connection.busy_timeout(BUSY).map_err(unreadable)?;
        let found: usize =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unreadable)?;
        if found > MIGRATIONS.len() {
            return Err(StoreError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(unreadable)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(unreadable)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(unreadable)?;
        for (version, step) in MIGRATIONS.iter().enumerate().skip(found) {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(unreadable)?;
            if version == 0 {
                transaction.pragma_update(None, "application_id", random_id()).map_err(unreadable)?;
            }
            transaction.execute_batch(step).map_err(unreadable)?;
            transaction.pragma_update(None, "user_version", version + 1).map_err(unreadable)?;
            transaction.commit().map_err(unreadable)?;
        }
        Ok(Self(Mutex::new(connection)))
    }

    /// Which store this is: one that is begun anew is another.
    pub(crate) fn id(&self) -> Result<String, StoreError> {
        let id: i64 = self.connection().pragma_query_value(None, "application_id", |row| row.get(0))?;
        Ok(format!("{id:08x}"))
    }

    /// Whether it speaks of nothing.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let any = "SELECT EXISTS (SELECT 1 FROM vms) OR EXISTS (SELECT 1 FROM images) OR EXISTS (SELECT 1 FROM kernels)";
        let any: bool = self.connection().query_row(any, [], |row| row.get(0))?;
        Ok(!any)
    }

    /// Puts everything into the one file, which can then be copied; it is open for use all the same.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let all = self.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        Ok(all?)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere cannot have left a transaction half done: dropping one rolls it back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transaction<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        Ok(self.connection().prepare_cached(sql)?.execute(values)?)
    }

    fn query<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        read: impl Fn(&rusqlite::Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut list = Vec::new();
        while let Some(row) = rows.next()? {
            list.push(read(row)?);
        }
        Ok(list)
    }
}

/// A text column as the type it stands for.
fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: &'static str) -> Result<T, StoreError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|source: T::Err| StoreError::Value { what: column, source: Box::new(source) })
}

/// A JSON column as the type it stands for.
fn json<T: serde::de::DeserializeOwned>(
    row: &rusqlite::Row<'_>,
    column: &'static str,
) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|source| StoreError::Value { what: column, source: Box::new(source) })
}

fn to_json<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Value { what, source: Box::new(source) })
}

/// An insert that found the name taken, told so.
fn name_taken(error: rusqlite::Error, name: &str) -> StoreError {
    match error.sqlite_error() {
        Some(code) if code.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE => {
            StoreError::NameTaken(name.to_owned())
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_is_no_store_is_an_error_and_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let junk = vec![0x5a; 8192];
        fs::write(&path, &junk).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Unreadable { .. })));
        assert_eq!(fs::read(&path).unwrap(), junk);
    }

    #[test]
    fn a_store_of_a_later_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
        assert_eq!(ApiError::from(error).kind, ErrorKind::VersionSkew);
    }

    #[test]
    fn opening_twice_migrates_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(Store::open(&path).unwrap());
        let store = Store::open(&path).unwrap();
        assert!(store.vms().unwrap().is_empty());
    }
}
