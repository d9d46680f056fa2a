//! A directory of blobs by digest: `sha256/HEX`, and `sha256/HEX.partial` while a blob downloads.
//!
//! A blob gets its final name only after its digest is verified. A downloaded layer is not synced before, so a power
//! loss may leave it incomplete. Readers therefore verify blobs again: documents when they are read, layers when they
//! are unpacked. A partial blob is never trusted. Its lock shows that a process is writing to it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_api::Digest;
use sha2::{Digest as _, Sha256};

use crate::ImageError;
use crate::error::IoContext;
use crate::publish;

/// Size of the read buffer, in bytes.
const BUFFER: usize = 256 << 10;

/// A directory of blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

/// The state of a blob in the cache.
pub(super) enum Claim {
    /// The blob is complete.
    Whole(File),
    /// The blob is missing or partial, and the caller may write it.
    Ours(Partial),
    /// Another process is writing the blob; its current length.
    Taken(u64),
}

/// An unfinished blob with an exclusive writer. Others may read it.
pub(super) struct Partial {
    file: Arc<File>,
    path: PathBuf,
    whole: PathBuf,
}

impl Blobs {
    /// Opens the blobs in `folder`, and creates the directory if it is missing.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let folder = folder.join("sha256");
        fs::create_dir_all(&folder).during("create", &folder)?;
        Ok(Self { folder })
    }

    /// Opens a complete blob. The caller has to verify its digest.
    ///
    /// # Errors
    /// Returns an error if the blob exists but cannot be opened.
    pub fn get(&self, digest: &Digest) -> Result<Option<File>, ImageError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some).during("open", &path),
        }
    }

    /// Adds a small blob, such as a manifest or a configuration.
    ///
    /// # Errors
    /// Returns an error if the blob cannot be written.
    pub fn insert(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::sha256(Sha256::digest(bytes).into());
        let path = self.path(&digest);
        if !path.exists() {
            let (file, temporary) = publish::begin(&path)?;
            let written = file.write_all_at(bytes, 0);
            written.map_err(|source| publish::write_error(source, &path, bytes.len() as u64))?;
            publish::publish(&file, temporary, &path)?;
        }
        Ok(digest)
    }

    /// Reads and verifies a small blob. Removes one that is damaged or longer than `limit`, and returns `None`.
    pub(super) fn document(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.get(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).during("read", &self.path(digest))?;
        if Digest::sha256(Sha256::digest(&bytes).into()) == *digest {
            return Ok(Some(bytes));
        }
        self.remove(digest)?;
        Ok(None)
    }

    /// Removes a complete blob.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        fs::remove_file(&path).during("remove", &path)
    }

    /// Returns whether a blob's bytes match its digest.
    pub(super) fn is_sound(&self, digest: &Digest, file: &File) -> Result<bool, ImageError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut position = 0;
        loop {
            let n = file.read_at(&mut buffer, position).during("read", &self.path(digest))?;
            if n == 0 {
                return Ok(Digest::sha256(hash.finalize().into()) == *digest);
            }
            hash.update(&buffer[..n]);
            position += n as u64;
        }
    }

    /// Returns the complete blob, or the exclusive right to write it.
    pub(super) fn claim(&self, digest: &Digest) -> Result<Claim, ImageError> {
        let whole = self.path(digest);
        let path = self.folder.join(format!("{}.partial", digest.hex()));
        loop {
            if let Some(file) = self.get(digest)? {
                return Ok(Claim::Whole(file));
            }
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).during("open", &path)?;
            let metadata = file.metadata().during("stat", &path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claim::Taken(metadata.len())),
                Err(TryLockError::Error(error)) => return Err(error).during("lock", &path),
            }
            // The previous holder of the lock may have finished or removed the file after it was opened here.
            let current = fs::metadata(&path).is_ok_and(|now| now.ino() == metadata.ino());
            if current && !whole.exists() {
                return Ok(Claim::Ours(Partial { file: Arc::new(file), path, whole }));
            }
            if current {
                fs::remove_file(&path).during("remove", &path)?;
            }
        }
    }

    /// Returns the directory of the blobs.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }
}

impl Partial {
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn len(&self) -> Result<u64, ImageError> {
        Ok(self.file.metadata().during("stat", &self.path)?.len())
    }

    /// Reads some of the bytes present.
    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, ImageError> {
        self.file.read_at(buffer, position).during("read", &self.path)
    }

    /// Writes `bytes` at `position`, the end. `missing` bytes, including these, are still to be written.
    pub(super) fn write(&self, bytes: &[u8], position: u64, missing: u64) -> Result<(), ImageError> {
        let written = self.file.write_all_at(bytes, position);
        written.map_err(|source| publish::write_error(source, &self.path, missing))
    }

    pub(super) fn truncate(&self, length: u64) -> Result<(), ImageError> {
        self.file.set_len(length).during("truncate", &self.path)
    }

    /// Gives the verified blob its final name.
    pub(super) fn finish(self) -> Result<(), ImageError> {
        fs::rename(&self.path, &self.whole).during("rename a finished download to", &self.whole)
    }

    /// Removes the partial blob.
    pub(super) fn discard(self) -> Result<(), ImageError> {
        self.truncate(0)?;
        fs::remove_file(&self.path).during("remove", &self.path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Readers may keep the file open for longer, so unlock it explicitly.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        (folder, blobs)
    }

    #[test]
    fn what_is_inserted_is_there_and_what_is_damaged_is_not() {
        let (_folder, blobs) = blobs();
        let digest = blobs.insert(b"hello").unwrap();
        assert_eq!(blobs.insert(b"hello").unwrap(), digest);
        assert_eq!(blobs.document(&digest, 100).unwrap().unwrap(), b"hello");
        assert!(blobs.is_sound(&digest, &blobs.get(&digest).unwrap().unwrap()).unwrap());
        fs::write(blobs.path(&digest), "hell").unwrap();
        assert_eq!(blobs.document(&digest, 100).unwrap(), None);
        assert!(blobs.get(&digest).unwrap().is_none());
    }

    #[test]
    fn one_adds_to_a_blob_at_a_time() {
        let (_folder, blobs) = blobs();
        let digest = Digest::sha256(Sha256::digest("hello").into());
        let Claim::Ours(first) = blobs.claim(&digest).unwrap() else { panic!() };
        first.write(b"hel", 0, 5).unwrap();
        assert!(matches!(blobs.claim(&digest).unwrap(), Claim::Taken(3)));
        // A reader still has the file open.
        let reader = Arc::clone(first.file());
        drop(first);
        let Claim::Ours(second) = blobs.claim(&digest).unwrap() else { panic!() };
        assert_eq!(second.len().unwrap(), 3);
        second.write(b"lo", 3, 2).unwrap();
        second.finish().unwrap();
        let Claim::Whole(file) = blobs.claim(&digest).unwrap() else { panic!() };
        assert!(blobs.is_sound(&digest, &file).unwrap());
        assert_eq!(reader.metadata().unwrap().len(), 5);
    }

    #[test]
    fn what_is_discarded_begins_anew() {
        let (folder, blobs) = blobs();
        let digest = Digest::sha256([7; 32]);
        let Claim::Ours(first) = blobs.claim(&digest).unwrap() else { panic!() };
        first.write(b"x", 0, 1).unwrap();
        first.discard().unwrap();
        assert_eq!(fs::read_dir(folder.path().join("sha256")).unwrap().count(), 0);
        let Claim::Ours(second) = blobs.claim(&digest).unwrap() else { panic!() };
        assert_eq!(second.len().unwrap(), 0);
    }
}
