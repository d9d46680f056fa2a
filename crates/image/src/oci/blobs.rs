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
    dir: PathBuf,
}

/// The state of a blob in the cache.
pub(super) enum Claim {
    /// The blob is complete.
    Complete(File),
    /// The blob is missing or partial, and the caller may write it.
    Acquired(Partial),
    /// Another process is writing the blob; its current length.
    Busy(u64),
}

/// An unfinished blob with an exclusive writer. Others may read it.
pub(super) struct Partial {
    file: Arc<File>,
    path: PathBuf,
    final_path: PathBuf,
}

impl Blobs {
    /// Opens the blobs in `dir`, and creates the directory if it is missing.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let dir = dir.join("sha256");
        fs::create_dir_all(&dir).during("create", &dir)?;
        Ok(Self { dir })
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
            let (file, temporary) = publish::create_temporary(&path)?;
            let written = file.write_all_at(bytes, 0);
            written.map_err(|source| publish::write_error(source, &path, bytes.len() as u64))?;
            publish::publish(&file, temporary, &path)?;
        }
        Ok(digest)
    }

    /// Reads and verifies a small blob. If it is damaged or longer than `limit`, removes it and returns `None`.
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
    pub(super) fn is_intact(&self, digest: &Digest, file: &File) -> Result<bool, ImageError> {
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
        let final_path = self.path(digest);
        let path = self.dir.join(format!("{}.partial", digest.hex()));
        loop {
            if let Some(file) = self.get(digest)? {
                return Ok(Claim::Complete(file));
            }
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).during("open", &path)?;
            let metadata = file.metadata().during("stat", &path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claim::Busy(metadata.len())),
                Err(TryLockError::Error(error)) => return Err(error).during("lock", &path),
            }
            // The previous holder of the lock may have finished or removed the file after it was opened here.
            let current = fs::metadata(&path).is_ok_and(|now| now.ino() == metadata.ino());
            if current && !final_path.exists() {
                return Ok(Claim::Acquired(Partial { file: Arc::new(file), path, final_path }));
            }
            if current {
                fs::remove_file(&path).during("remove", &path)?;
            }
        }
    }

    /// Returns the directory of the blobs.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
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
        fs::rename(&self.path, &self.final_path).during("rename a finished download to", &self.final_path)
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
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    #[test]
    fn inserted_blobs_are_found_and_damaged_ones_removed() {
        let (_dir, blobs) = blobs();
        let digest = blobs.insert(b"hello").unwrap();
        assert_eq!(blobs.insert(b"hello").unwrap(), digest);
        assert_eq!(blobs.document(&digest, 100).unwrap().unwrap(), b"hello");
        assert!(blobs.is_intact(&digest, &blobs.get(&digest).unwrap().unwrap()).unwrap());
        fs::write(blobs.path(&digest), "hell").unwrap();
        assert_eq!(blobs.document(&digest, 100).unwrap(), None);
        assert!(blobs.get(&digest).unwrap().is_none());
    }

    #[test]
    fn only_one_writer_can_claim_a_blob() {
        let (_dir, blobs) = blobs();
        let digest = Digest::sha256(Sha256::digest("hello").into());
        let Claim::Acquired(first) = blobs.claim(&digest).unwrap() else { panic!() };
        first.write(b"hel", 0, 5).unwrap();
        assert!(matches!(blobs.claim(&digest).unwrap(), Claim::Busy(3)));
        // A reader still has the file open.
        let reader = Arc::clone(first.file());
        drop(first);
        let Claim::Acquired(second) = blobs.claim(&digest).unwrap() else { panic!() };
        assert_eq!(second.len().unwrap(), 3);
        second.write(b"lo", 3, 2).unwrap();
        second.finish().unwrap();
        let Claim::Complete(file) = blobs.claim(&digest).unwrap() else { panic!() };
        assert!(blobs.is_intact(&digest, &file).unwrap());
        assert_eq!(reader.metadata().unwrap().len(), 5);
    }

    #[test]
    fn a_discarded_blob_starts_empty_again() {
        let (dir, blobs) = blobs();
        let digest = Digest::sha256([7; 32]);
        let Claim::Acquired(first) = blobs.claim(&digest).unwrap() else { panic!() };
        first.write(b"x", 0, 1).unwrap();
        first.discard().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("sha256")).unwrap().count(), 0);
        let Claim::Acquired(second) = blobs.claim(&digest).unwrap() else { panic!() };
        assert_eq!(second.len().unwrap(), 0);
    }
}
