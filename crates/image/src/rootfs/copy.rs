//! Copies a root file system: as a reflink if the host's file system supports it, otherwise without its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;

use crate::error::IoContext;
use crate::publish::{self, write_error};
use crate::{DiskProblem, ImageError, Progress, progress};

/// Size of a chunk, in bytes.
const CHUNK_SIZE: u64 = 1 << 20;

/// Copies the file `from` to `out`, which appears complete or not at all, and only if `unchanged` returns true after
/// the copy.
///
/// # Errors
/// Returns an error if a file cannot be read or written, if `from` was changed meanwhile, or if `progress` is
/// cancelled.
pub fn copy_rootfs(
    from: &Path,
    out: &Path,
    unchanged: impl FnOnce() -> Result<bool, ImageError>,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let source = File::open(from).during("open", from)?;
    let (file, temporary) = publish::create_temporary(out)?;
    // Not every file system supports it.
    if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
        copy(&source, from, &file, out, progress)?;
    }
    if !unchanged()? {
        return Err(ImageError::Disk { path: from.to_owned(), source: DiskProblem::Changed });
    }
    publish::publish(&file, temporary, out)
}

fn copy(
    source: &File,
    from: &Path,
    file: &File,
    out: &Path,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let length = source.metadata().during("stat", from)?.len();
    file.set_len(length).map_err(|error| write_error(error, out, 0))?;
    let mut buffer = vec![0; usize::try_from(CHUNK_SIZE).unwrap_or(4096)];
    let mut at = 0;
    while at < length {
        // Fails when only a hole is left.
        let Ok(data) = rustix::fs::seek(source, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(source, SeekFrom::Hole(data)).during("read", from)?;
        at = data;
        while at < end {
            progress::check(progress)?;
            progress.bytes(at, Some(length));
            let chunk_length = usize::try_from((end - at).min(CHUNK_SIZE)).unwrap_or(buffer.len());
            let chunk = buffer.get_mut(..chunk_length).unwrap_or_default();
            source.read_exact_at(chunk, at).or_else(ignore_eof).during("read", from)?;
            file.write_all_at(chunk, at).map_err(|error| write_error(error, out, length))?;
            at += chunk_length as u64;
        }
    }
    Ok(())
}

/// Ignores an early end of the file: it was changed, which is reported when the copy is done.
fn ignore_eof(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::Silent;

    #[test]
    fn a_copy_keeps_holes_and_fails_if_the_source_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for (at, byte) in [(5 << 20, 1_u8), (40 << 20, 2)] {
            file.write_all_at(&vec![byte; 3 << 20], at).unwrap();
        }
        copy_rootfs(&from, &out, || Ok(true), &Silent).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&out).unwrap());
        assert!(fs::metadata(&out).unwrap().blocks() < (8 << 20) / 512);
        fs::remove_file(&out).unwrap();
        let error = copy_rootfs(&from, &out, || Ok(false), &Silent).unwrap_err();
        assert!(matches!(error, ImageError::Disk { source: DiskProblem::Changed, .. }));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
