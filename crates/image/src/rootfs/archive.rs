//! A tar archive: its index of files, and its use as a root file system.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::content::ContentReader;
use super::index::{Index, Merge};
use super::spool::{Kind, spool};
use super::tree::{NodeKind, Tree};
use super::write::{RootfsInfo, RootfsOptions, write_tree};
use crate::archive::ArchiveError;
use crate::codec::Compression;
use crate::{ImageError, Progress};

/// An uncompressed tar and its tree.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    tree: Tree,
}

impl Archive {
    /// Reads a tar, plain or compressed with gzip, zstd or xz, through an unnamed file in `spool_dir`.
    pub(crate) fn of(
        input: impl Read,
        spool_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        Self::indexed(spool(input, Kind::Archive, spool_dir, progress)?.file, progress)
    }

    /// Reads a tar in a regular file. An uncompressed one is used in place.
    pub(crate) fn of_file(tar: File, spool_dir: &Path, progress: &dyn Progress) -> Result<Self, ImageError> {
        let unreadable = |error| ImageError::Archive(ArchiveError::Read(error));
        let meta = tar.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let mut start = [0; 6];
        let length = tar.read_at(&mut start, 0).map_err(unreadable)?;
        if Compression::of(&start[..length]) != Compression::Uncompressed {
            return Self::of(tar, spool_dir, progress);
        }
        Self::indexed(tar, progress)
    }

    fn indexed(file: File, progress: &dyn Progress) -> Result<Self, ImageError> {
        progress.stage("check the archive");
        let mut merge = Merge::new();
        merge.archive(Index::of(&file, progress)?)?;
        Ok(Self { file, tree: merge.tree() })
    }

    /// Opens the file `path`, following links. Returns `None` if it is missing, no regular file, or sparse.
    pub(crate) fn open(&self, path: &str) -> Option<impl Read + Send + '_> {
        let NodeKind::File { size, extents, .. } = &self.tree.node(self.tree.lookup(path)?).kind else {
            return None;
        };
        let stored: u64 = extents.iter().map(|extent| extent.length).sum();
        (stored == *size).then(|| ContentReader::new(&self.file, *size, extents))
    }

    /// Writes the archive to the ext4 file `out`, as a root file system.
    pub(crate) fn write(
        &self,
        out: &Path,
        options: &RootfsOptions,
        progress: &dyn Progress,
    ) -> Result<RootfsInfo, ImageError> {
        write_tree(&self.tree, &[&self.file], out, options, progress)
    }
}
