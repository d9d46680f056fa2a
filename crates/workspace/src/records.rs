//! The records of all workspaces: a directory for each VM in the user's state directory, and in it a file for each
//! workspace.
//!
//! Files are replaced as a whole, so reading needs no lock. Only the holder of a VM's lock writes its records: it
//! reads, works and writes while no other process does.
//!
//! A record is written before the first byte is sent ([`begin`](LockedRecords::begin)), and again when everything is
//! in place. So a VM without a record has nothing that was sent, even if banger was killed at any point.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use banger_durable::Lock;

use crate::{
    Pulled, Record, WorkspaceError,
    error::{reading, writing},
    git::read_file,
    steps::Step,
};

/// Permissions of a record, which names the user's files.
const MODE: u32 = 0o600;

/// Name of the file in a VM's directory that says that the VM is being deleted.
const DELETED: &str = "deleted";

/// All records of a user.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// The records of a VM, which no other process changes meanwhile.
#[derive(Debug)]
pub struct LockedRecords {
    dir: PathBuf,
    lock: Lock,
}

impl Records {
    /// Uses the directory `dir`, which is created when the first record is saved.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Returns the records of the VM with id `vm`.
    ///
    /// # Errors
    /// Returns an error if a record cannot be read.
    pub fn list(&self, vm: &str) -> Result<Vec<Record>, WorkspaceError> {
        list(&self.dir.join(vm))
    }

    /// Returns whether there are files for the VM with id `vm`, readable or not.
    pub fn exist(&self, vm: &str) -> bool {
        self.dir.join(vm).exists() || self.lock_path(vm).exists()
    }

    /// Locks the records of the VM with id `vm`. Returns `None` if another process has locked them.
    ///
    /// # Errors
    /// Returns an error if the lock cannot be created.
    pub fn try_lock(&self, vm: &str) -> Result<Option<LockedRecords>, WorkspaceError> {
        banger_durable::create_dir(&self.dir).map_err(writing(&self.dir))?;
        let path = self.lock_path(vm);
        let lock = Lock::try_acquire(&path).map_err(writing(path))?;
        Ok(lock.map(|lock| LockedRecords { dir: self.dir.join(vm), lock }))
    }

    /// Returns the id of the process that has locked the records of the VM with id `vm`, as far as it is known.
    pub fn lock_holder(&self, vm: &str) -> Option<u32> {
        Lock::holder(&self.lock_path(vm))
    }

    /// Removes the records of VMs that were [deleted](LockedRecords::mark_deleted) and do not exist, as `exists` says.
    ///
    /// # Errors
    /// Returns an error if they cannot be removed.
    pub fn remove_deleted(&self, exists: impl Fn(&str) -> bool) -> Result<(), WorkspaceError> {
        for path in entries(&self.dir)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.join(DELETED).exists()
                && !exists(name)
                && let Some(records) = self.try_lock(name)?
            {
                records.remove()?;
            }
        }
        Ok(())
    }

    fn lock_path(&self, vm: &str) -> PathBuf {
        self.dir.join(format!("{vm}.lock"))
    }
}

impl LockedRecords {
    /// Returns the record of the workspace at `guest_path`.
    ///
    /// # Errors
    /// Returns an error if a record cannot be read.
    pub fn find(&self, guest_path: &[u8]) -> Result<Option<Record>, WorkspaceError> {
        Ok(list(&self.dir)?.into_iter().find(|record| record.guest_path() == guest_path))
    }

    /// Records that the transfer of `record` begins. Must be on the disk before the first byte is sent.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn begin(&self, record: Record) -> Result<(), WorkspaceError> {
        Step::RecordBegin.around(|| self.save(&record.sending()))
    }

    /// Records that the transfer of `record` has ended: everything is in place.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn complete(&self, record: &Record) -> Result<(), WorkspaceError> {
        Step::RecordComplete.around(|| self.save(record))
    }

    /// Undoes [`begin`](Self::begin), because the guest has refused the transfer: `previous` is the record from before.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn undo(&self, guest_path: &[u8], previous: Option<&Record>) -> Result<(), WorkspaceError> {
        Step::RecordUndo.around(|| match previous {
            Some(record) => self.save(record),
            None => {
                let path = self.path(guest_path)?;
                banger_durable::remove(&path).map_err(writing(path))
            }
        })
    }

    /// Records the refs that received the work of the workspace at `guest_path`.
    ///
    /// # Errors
    /// Returns an error if the record cannot be read or written.
    pub fn set_pulled(&self, guest_path: &[u8], pulled: &Pulled) -> Result<(), WorkspaceError> {
        let Some(mut record) = self.find(guest_path)? else { return Ok(()) };
        record.set_pulled(pulled);
        Step::RecordPulled.around(|| self.save(&record))
    }

    /// Records that the VM is being deleted, so that its records are removed even if this process is killed.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn mark_deleted(&self) -> Result<(), WorkspaceError> {
        let path = self.dir.join(DELETED);
        let mark = || {
            banger_durable::create_dir(&self.dir)?;
            banger_durable::write(&path, MODE, |_| Ok(()))
        };
        Step::RecordMark.around(|| mark().map_err(writing(&path)))
    }

    /// Removes all records of the VM.
    ///
    /// # Errors
    /// Returns an error if they cannot be removed.
    pub fn remove(self) -> Result<(), WorkspaceError> {
        Step::RecordRemove.around(|| match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(writing(&self.dir)(error)),
            _ => self.lock.remove().map_err(writing(&self.dir)),
        })
    }

    /// Saves `record`, replacing an older record of the workspace. A VM that is used is not being deleted.
    fn save(&self, record: &Record) -> Result<(), WorkspaceError> {
        banger_durable::create_dir(&self.dir).map_err(writing(&self.dir))?;
        let mark = self.dir.join(DELETED);
        banger_durable::remove(&mark).map_err(writing(mark))?;
        let path = self.path(record.guest_path())?;
        banger_durable::write(&path, MODE, |out| record.write(out)).map_err(writing(path))
    }

    /// Returns the path of the workspace's record, or an unused one. Returns an error if a file cannot be read, so that
    /// none is replaced.
    fn path(&self, guest_path: &[u8]) -> Result<PathBuf, WorkspaceError> {
        for path in files(&self.dir)? {
            if load(&path)?.is_some_and(|record| record.guest_path() == guest_path) {
                return Ok(path);
            }
        }
        // FNV-1a turns a path of any bytes and length into a file name.
        let hash = guest_path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut path = self.dir.join(format!("{hash:016x}"));
        let mut number = 1;
        // Another path may have the same hash.
        while path.exists() {
            number += 1;
            path = self.dir.join(format!("{hash:016x}-{number}"));
        }
        Ok(path)
    }
}

fn list(dir: &Path) -> Result<Vec<Record>, WorkspaceError> {
    let mut records = Vec::new();
    for path in files(dir)? {
        records.extend(load(&path)?);
    }
    records.sort_by(|a, b| a.guest_path().cmp(b.guest_path()));
    Ok(records)
}

/// Returns the paths of the records in the directory `dir`.
fn files(dir: &Path) -> Result<impl Iterator<Item = PathBuf>, WorkspaceError> {
    Ok(entries(dir)?.into_iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Temporary files begin with a dot.
        name != DELETED && !name.starts_with('.')
    }))
}

/// Returns the paths in the directory `dir`; none if it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(reading(dir))?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(reading(dir)(error)),
    }
}

fn load(path: &Path) -> Result<Option<Record>, WorkspaceError> {
    let Some(bytes) = read_file(path).map_err(reading(path))? else { return Ok(None) };
    let record =
        Record::read(&bytes).map_err(|problem| WorkspaceError::Record { path: path.to_owned(), problem })?;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(guest_path: &str) -> Record {
        Record::new(guest_path.as_bytes(), Path::new("/home/me/repo"), 20)
    }

    fn records(dir: &tempfile::TempDir) -> Records {
        Records::new(dir.path().join("workspaces"))
    }

    #[test]
    fn a_record_says_that_it_is_being_sent_until_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        assert!(records.list("box").unwrap().is_empty());
        let locked = records.try_lock("box").unwrap().unwrap();
        locked.begin(record("/root/repo")).unwrap();
        assert!(records.list("box").unwrap()[0].is_sending());
        locked.complete(&record("/root/repo")).unwrap();
        assert_eq!(records.list("box").unwrap(), [record("/root/repo")]);
        assert_eq!(locked.find(b"/root/repo").unwrap(), Some(record("/root/repo")));
        assert_eq!(locked.find(b"/root/other").unwrap(), None);
        locked.remove().unwrap();
        assert!(records.list("box").unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("workspaces")).unwrap().count(), 0);
    }

    #[test]
    fn a_refused_transfer_restores_the_record_from_before() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        let locked = records.try_lock("box").unwrap().unwrap();
        locked.begin(record("/a")).unwrap();
        locked.undo(b"/a", None).unwrap();
        assert!(records.list("box").unwrap().is_empty());
        locked.complete(&record("/a")).unwrap();
        locked.begin(record("/a")).unwrap();
        locked.undo(b"/a", Some(&record("/a"))).unwrap();
        assert_eq!(records.list("box").unwrap(), [record("/a")]);
    }

    #[test]
    fn only_one_process_at_a_time_has_a_vms_lock() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        let locked = records.try_lock("box").unwrap().unwrap();
        assert!(records.try_lock("box").unwrap().is_none());
        assert_eq!(records.lock_holder("box"), Some(std::process::id()));
        assert!(records.try_lock("other").unwrap().is_some());
        drop(locked);
        assert!(records.try_lock("box").unwrap().is_some());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        let locked = records.try_lock("box").unwrap().unwrap();
        locked.complete(&record("/a")).unwrap();
        let path = locked.path(b"/a").unwrap();
        fs::write(&path, b"bnw\x02 of a newer version").unwrap();
        assert!(matches!(records.list("box"), Err(WorkspaceError::Record { .. })));
        assert!(matches!(locked.begin(record("/a")), Err(WorkspaceError::Record { .. })));
        assert!(matches!(locked.undo(b"/a", None), Err(WorkspaceError::Record { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"bnw\x02 of a newer version");
    }

    #[test]
    fn records_of_paths_with_the_same_hash_do_not_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        let locked = records.try_lock("box").unwrap().unwrap();
        locked.complete(&record("/a")).unwrap();
        // As if both had the same hash.
        fs::rename(locked.path(b"/a").unwrap(), locked.path(b"/b").unwrap()).unwrap();
        locked.complete(&record("/b")).unwrap();
        locked.complete(&record("/b")).unwrap();
        assert_eq!(records.list("box").unwrap(), [record("/a"), record("/b")]);
    }

    #[test]
    fn records_of_deleted_vms_are_removed_later_and_others_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(&dir);
        for vm in ["deleted", "failed", "used", "running"] {
            let locked = records.try_lock(vm).unwrap().unwrap();
            locked.complete(&record("/a")).unwrap();
            if vm != "running" {
                locked.mark_deleted().unwrap();
            }
            if vm == "used" {
                locked.complete(&record("/a")).unwrap();
            }
        }
        records.remove_deleted(|vm| vm == "failed").unwrap();
        let kept = ["deleted", "failed", "used", "running"].map(|vm| records.list(vm).unwrap().len());
        assert_eq!(kept, [0, 1, 1, 1]);
        // Nothing was sent to it.
        records.try_lock("empty").unwrap().unwrap().mark_deleted().unwrap();
        assert!(records.exist("empty"));
        records.remove_deleted(|_| false).unwrap();
        assert!(!records.exist("empty") && !records.exist("failed") && records.exist("running"));
    }
}
