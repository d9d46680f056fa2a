//! The store: one SQLite file with every VM, image and kernel, and the journal of the host resources VMs hold.
//!
//! Every access goes through [`Store`], which holds the one connection. Each method is one transaction and takes well
//! under a millisecond, or a few if it is synced to the disk, so async code calls it directly. The write-ahead log
//! survives the death of the process at any point. A power loss may lose the last commits, but none up to the last
//! one of a step that is durable ([`Step::is_durable`]).

mod catalogs;
mod deleted;
mod images;
mod journal;
mod kernels;
mod vms;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, EventKind, Remedy};
use rusqlite::{Connection, MAIN_DB, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};
use tempfile::TempDir;

use crate::{event_log::EventLog, random, step::Step};

pub(crate) use catalogs::SignedTimes;
pub(crate) use images::{ImageRecord, RegisteredFile};
pub(crate) use journal::Scope;
pub(crate) use kernels::KernelRecord;
pub(crate) use vms::{Handle, NetworkSockets, NewVm, USER_NETWORK, VmRecord};

/// The schema, one migration per version. A released migration is never changed.
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
", "
    ALTER TABLE images ADD COLUMN reference TEXT;
    ALTER TABLE images ADD COLUMN digest TEXT;
    ALTER TABLE images ADD COLUMN config TEXT NOT NULL DEFAULT '{}';
", "
    ALTER TABLE images ADD COLUMN outside TEXT;
    ALTER TABLE images ADD COLUMN build_key TEXT;
", "
    ALTER TABLE vms ADD COLUMN ran_with TEXT;
    UPDATE vms SET ran_with = json_object('vmm', handle ->> 'vmm', 'accel', handle ->> 'accel') WHERE handle IS NOT NULL;
", "
    ALTER TABLE vms ADD COLUMN deleting INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE deleted (id TEXT PRIMARY KEY) STRICT;
", "
    CREATE TABLE catalogs (
        url TEXT NOT NULL, key TEXT NOT NULL, signed_at INTEGER NOT NULL, PRIMARY KEY (url, key)
    ) STRICT;
", "
    ALTER TABLE vms ADD COLUMN network_kind TEXT NOT NULL DEFAULT 'user';
    ALTER TABLE vms ADD COLUMN egress TEXT NOT NULL DEFAULT 'open';
    UPDATE vms SET egress = 'none' WHERE nat = 0;
    ALTER TABLE vms DROP COLUMN nat;
", "
    ALTER TABLE vms ADD COLUMN published TEXT NOT NULL DEFAULT '[]';
", "
    ALTER TABLE vms ADD COLUMN publish_all INTEGER NOT NULL DEFAULT 0;
", "
    ALTER TABLE vms ADD COLUMN allow_host TEXT NOT NULL DEFAULT '[]';
"];

/// Timeout for another process (such as a user's `sqlite3`) to unlock the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of attempts to copy a store that changes meanwhile. A daemon writes in bursts of milliseconds.
const MAX_COPY_ATTEMPTS: usize = 20;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file exists and is not a valid store.
    #[error("the store {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A later version of banger has written it.
    #[error("the store {} has schema version {found}; this build supports up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's schema version.
        found: usize,
        /// The latest schema version of this build.
        known: usize,
    },
    /// The file exists and cannot be written.
    #[error("the store {} cannot be written", .0.display())]
    Unwritable(PathBuf),
    /// The file could not be copied for reading.
    #[error("the store {} cannot be copied for reading: {source}", path.display())]
    NotCopied {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The name is taken.
    #[error("the name {0} is taken")]
    NameTaken(String),
    /// A value in a row cannot be parsed by this build.
    #[error("the store has an invalid {what}: {source}")]
    Value {
        /// The column.
        what: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Any other SQLite error.
    #[error("store error: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NameTaken(_) => Self::new(ErrorKind::AlreadyExists, message),
            StoreError::Unreadable { path, .. } => {
                Self::new(ErrorKind::Store, message).remedy(Remedy::MoveStoreAside { path })
            }
            StoreError::Newer { .. } => {
                Self::new(ErrorKind::VersionSkew, message).remedy(Remedy::RunNewerBanger)
            }
            StoreError::Unwritable(_) => {
                Self::new(ErrorKind::Store, message).remedy(Remedy::MakeStoreWritable)
            }
            _ => Self::new(ErrorKind::Store, message),
        }
    }
}

/// Returns a random number that distinguishes a user's stores, as far as 31 bits allow.
fn random_id() -> i32 {
    i32::from_be_bytes(random::random()) & i32::MAX
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
    event_log: EventLog,
    /// The locked file of [`open_locked`](Store::open_locked): the lock lasts until no task uses the store.
    _lock: Option<File>,
    /// The copy's directory, after [`open_read_only`](Store::open_read_only). Dropped after the connection.
    copy: Option<TempDir>,
}

impl Store {
    /// Opens the store at `path`, creating it if there is none, and migrates its schema. A file that is refused is
    /// left unchanged.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = connect(path)?;
        migrate(&mut connection, MIGRATIONS).map_err(unreadable(path))?;
        read_only(&connection, true)?;
        Ok(Self {
            connection: Mutex::new(connection),
            event_log: EventLog::default(),
            _lock: None,
            copy: None,
        })
    }

    /// Opens the store at `path`, and keeps `lock` open.
    pub(crate) fn open_locked(path: &Path, lock: File) -> Result<Self, StoreError> {
        Ok(Self { _lock: Some(lock), ..Self::open(path)? })
    }

    /// Opens the store at `path` for reading only; returns `None` if there is none. Opens a migrated copy, so that
    /// nothing beside the original is created or changed, even while a daemon has it open or after one was killed.
    pub(crate) fn open_read_only(path: &Path) -> Result<Option<Self>, StoreError> {
        let Some(dir) = copy_store(path)? else { return Ok(None) };
        let copy = dir.path().join("store.db");
        let with_original_path = |error| match error {
            StoreError::Unreadable { source, .. } => StoreError::Unreadable { path: path.to_owned(), source },
            StoreError::Newer { found, known, .. } => {
                StoreError::Newer { path: path.to_owned(), found, known }
            }
            other => other,
        };
        Ok(Some(Self { copy: Some(dir), ..Self::open(&copy).map_err(with_original_path)? }))
    }

    /// Returns the events to which changes of VMs, images and kernels are reported.
    pub(crate) fn event_log(&self) -> &EventLog {
        &self.event_log
    }

    /// Returns the store's id. A store that is created anew has another id.
    pub(crate) fn id(&self) -> Result<String, StoreError> {
        let id: i64 = self.connection().pragma_query_value(None, "application_id", |row| row.get(0))?;
        Ok(format!("{id:08x}"))
    }

    /// Returns whether there are no VMs, images or kernels.
    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let any = "SELECT EXISTS (SELECT 1 FROM vms) OR EXISTS (SELECT 1 FROM images) OR EXISTS (SELECT 1 FROM kernels)";
        let any: bool = self.connection().query_row(any, [], |row| row.get(0))?;
        Ok(!any)
    }

    /// Checkpoints the write-ahead log into the one file, which can then be copied. The store stays open.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let connection = self.connection();
        Step::Checkpoint
            .around(|| Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere cannot have left a transaction open: dropping one rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in a transaction that is a step. SQLite refuses writes by any other way.
    fn write<T>(
        &self,
        step: Step,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_and_publish(step, |transaction| Ok((work(transaction)?, [] as [EventKind; 0])))
    }

    /// Writes, and reports the returned events, in the order of the writes.
    fn write_and_publish<T, H: IntoIterator<Item = EventKind>>(
        &self,
        step: Step,
        work: impl FnOnce(&Transaction<'_>) -> Result<(T, H), StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        connection.pragma_update(None, "synchronous", if step.is_durable() { "FULL" } else { "NORMAL" })?;
        read_only(&connection, self.copy.is_some())?;
        let written: Result<_, StoreError> = step.around(|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        read_only(&connection, true)?;
        let (value, events) = written?;
        events.into_iter().for_each(|event| self.event_log.publish(event));
        Ok(value)
    }

    /// Writes with one statement; returns the number of changed rows.
    fn execute(&self, step: Step, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.write(step, |transaction| Ok(transaction.prepare_cached(sql)?.execute(values)?))
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

/// Opens a connection to a store that is intact and has a known schema.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let has = |suffix: &str| fs::metadata(companion_path(path, suffix)).is_ok_and(|file| file.len() > 0);
    let has_log = has("-wal");
    if has_log && !has("") {
        // SQLite would treat the file as a new store, and discard the log.
        return Err(damaged(path, "it is empty, and its write-ahead log is not"));
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unreadable(path))?;
    // Until the checks have passed, closing the connection must not checkpoint even the store's own log.
    let keep_log = |on| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, on);
    keep_log(has_log).map_err(unreadable(path))?;
    check(&connection, path)?;
    keep_log(false).map_err(unreadable(path))?;
    let prepare = || {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)
    };
    prepare().map_err(unreadable(path))?;
    Ok(connection)
}

/// Refuses a store that is damaged, another program's, from a later version of banger, or read-only.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unreadable(path))?;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, usize>(0)).map_err(unreadable(path));
    let (found, tables) = (number("PRAGMA user_version")?, number("SELECT count(*) FROM sqlite_schema")?);
    if found > MIGRATIONS.len() {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    if found == 0 && tables > 0 {
        return Err(damaged(path, "it is a database of another program"));
    }
    let integrity: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unreadable(path))?;
    if integrity != "ok" {
        return Err(damaged(path, &integrity));
    }
    if connection.is_readonly(MAIN_DB).map_err(unreadable(path))? {
        return Err(StoreError::Unwritable(path.to_owned()));
    }
    Ok(())
}

/// Migrates a schema with `steps`, each in its own transaction that also sets the version.
fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), rusqlite::Error> {
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (version, step) in steps.iter().enumerate().skip(found) {
        Step::Migrate.around(|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
            if version == 0 {
                transaction.pragma_update(None, "application_id", random_id())?;
            }
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", version + 1)?;
            transaction.commit()
        })?;
    }
    Ok(())
}

/// Forbids or allows writes on a connection.
fn read_only(connection: &Connection, on: bool) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "query_only", on)
}

/// Copies a store with its log into a temporary directory; returns `None` if there is none. A store that a running
/// daemon changes meanwhile is copied again.
fn copy_store(path: &Path) -> Result<Option<TempDir>, StoreError> {
    let failed = |source| StoreError::NotCopied { path: path.to_owned(), source };
    let stamp = || {
        ["", "-wal"].map(|suffix| {
            fs::metadata(companion_path(path, suffix))
                .ok()
                .map(|file| (file.len(), file.mtime(), file.mtime_nsec()))
        })
    };
    let dir = tempfile::Builder::new().prefix("banger-store-").tempdir().map_err(failed)?;
    for _ in 0..MAX_COPY_ATTEMPTS {
        let before = stamp();
        for suffix in ["", "-wal"] {
            match fs::copy(companion_path(path, suffix), dir.path().join(format!("store.db{suffix}"))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && suffix.is_empty() => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => drop(result.map_err(failed)?),
            }
        }
        if stamp() == before {
            return Ok(Some(dir));
        }
    }
    Err(failed(io::ErrorKind::ResourceBusy.into()))
}

/// Returns the path of a store's companion file: SQLite appends this suffix.
fn companion_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn unreadable(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
    |source| StoreError::Unreadable { path: path.to_owned(), source }
}

fn damaged(path: &Path, why: &str) -> StoreError {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    unreadable(path)(rusqlite::Error::SqliteFailure(code, Some(why.to_owned())))
}

/// Parses a text column.
fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: &'static str) -> Result<T, StoreError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|source: T::Err| StoreError::Value { what: column, source: Box::new(source) })
}

/// Parses a JSON column.
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

/// Runs a statement that returns the name of the row it changes; returns `None` if there is no such row.
fn returned_name<T: std::str::FromStr>(
    transaction: &Transaction<'_>,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Option<T>, StoreError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    rows.next()?.map(|row| parsed(row, "name")).transpose()
}

/// Converts an insert's error to [`StoreError::NameTaken`] if the name is taken.
fn name_taken(error: rusqlite::Error, name: &str) -> StoreError {
    match error.sqlite_error() {
        Some(code) if code.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE => {
            StoreError::NameTaken(name.to_owned())
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests;
