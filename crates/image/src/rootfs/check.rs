//! Checking a file system that a guest has written to.

use std::path::Path;
use std::time::Duration;

use crate::program::Program;
use crate::{ImageError, Progress};

/// How long a check may take: a large disk of a slow host takes minutes.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Exit status of e2fsck(8) when it has mended all that it found.
const MENDED: i32 = 1;

/// Checks the ext4 in file `path`, which nothing may have open. What can be mended without a choice is: a journal that
/// was not played back, above all.
///
/// # Errors
/// When there is no `e2fsck`, or the file system is damaged beyond that.
pub fn check_ext4(path: &Path, progress: &dyn Progress) -> Result<(), ImageError> {
    let mut e2fsck = Program::new("e2fsck", "Debian: apt install e2fsprogs", LIMIT)?.accept(MENDED);
    e2fsck.command().args(["-f", "-p"]).arg(path);
    e2fsck.output(progress).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use super::*;
    use crate::{FailureKind, Silent, write_empty_ext4};

    #[test]
    fn a_sound_file_system_passes_and_a_broken_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        write_empty_ext4(&path, 64 << 20, "work").unwrap();
        check_ext4(&path, &Silent).unwrap();
        // The root folder's inode and the tables around it.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0x5a; 1 << 20], 4096).unwrap();
        assert_eq!(check_ext4(&path, &Silent).unwrap_err().kind(), FailureKind::Io);
    }
}
