//! Checks a file system that a guest has written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use banger_sys::confine::Access;

use crate::confinement;
use crate::error::IoContext;
use crate::program::{HostCommand, Rights};
use crate::{ImageError, Progress};

/// Timeout for a check. A large disk on a slow host takes minutes.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Exit status of e2fsck(8) when it has repaired all errors.
const REPAIRED: i32 = 1;

/// Checks the ext4 in file `path`, which must not be in use. `e2fsck` makes all repairs that need no decision, above
/// all it replays the journal.
///
/// # Errors
/// Returns an error if `e2fsck` is missing, or if it cannot repair the damage.
pub fn check_ext4(path: &Path, progress: &dyn Progress) -> Result<(), ImageError> {
    let mut e2fsck = HostCommand::new("e2fsck", TIMEOUT, rights(path, Access::Write)?)?.accept(REPAIRED);
    e2fsck.command().args(["-f", "-p"]).arg(path);
    e2fsck.output(progress).map(drop)
}

/// Checks the ext4 that fills `file`, at `path`, without changing it: a file system made elsewhere must be sound.
///
/// # Errors
/// Returns an error if `e2fsck` is missing, if the file is not such an ext4, or if `e2fsck` finds any error.
pub(crate) fn verify_ext4(file: &File, path: &Path, progress: &dyn Progress) -> Result<(), ImageError> {
    if !superblock_matches(file).during("read", path)? {
        let output = vec!["its superblock does not describe an ext4 file system of this size".to_owned()];
        return Err(ImageError::Program { program: "e2fsck", status: "not run".to_owned(), output });
    }
    let mut e2fsck = HostCommand::new("e2fsck", TIMEOUT, rights(path, Access::Read)?)?;
    e2fsck.command().args(["-f", "-n"]).arg(path);
    e2fsck.output(progress).map(drop)
}

/// Returns the rights of `e2fsck` on the file system in `path`.
fn rights(path: &Path, access: Access) -> Result<Rights, ImageError> {
    let size = path.metadata().during("stat", path)?.len();
    Ok(Rights::Confined(confinement::e2fsck(path, access, size)))
}

/// Returns whether an ext4 superblock (kernel documentation, "ext4: Super Block") accounts for exactly the whole
/// file.
fn superblock_matches(file: &File) -> io::Result<bool> {
    const MAGIC: u16 = 0xef53;
    let mut block = [0; 1024];
    if file.metadata()?.len() < 2048 {
        return Ok(false);
    }
    file.read_exact_at(&mut block, 1024)?;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let is_64_bit = word(0x60) & 0x80 != 0;
    let blocks = u64::from(word(0x4)) | if is_64_bit { u64::from(word(0x150)) << 32 } else { 0 };
    let magic = u16::from_le_bytes([block[0x38], block[0x39]]) == MAGIC;
    // The largest block size of ext4 is 64 KiB.
    let size = (word(0x18) <= 6).then(|| blocks.checked_mul(1024 << word(0x18))).flatten();
    Ok(magic && size == Some(file.metadata()?.len()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use super::*;
    use crate::{FailureKind, Silent, write_empty_ext4};

    #[test]
    fn a_valid_file_system_passes_and_a_damaged_one_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        write_empty_ext4(&path, 64 << 20, "work").unwrap();
        check_ext4(&path, &Silent).unwrap();
        // Overwrite the root directory's inode and the tables around it.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&vec![0x5a; 1 << 20], 4096).unwrap();
        assert_eq!(check_ext4(&path, &Silent).unwrap_err().kind(), FailureKind::Io);
    }

    #[test]
    fn programs_for_ext4_work_with_the_rights_of_e2fsck() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        for (program, before, after) in [
            ("mke2fs", &["-q", "-F", "-t", "ext4"][..], &[][..]),
            ("debugfs", &["-w", "-R", "mkdir sub"], &[]),
            ("resize2fs", &[], &["32M"]),
            ("resize2fs", &[], &["64M"]),
            ("e2fsck", &["-f", "-p"], &[]),
            ("e2fsck", &["-f", "-n"], &[]),
        ] {
            let mut command =
                HostCommand::new(program, TIMEOUT, rights(&disk, Access::Write).unwrap()).unwrap();
            command.command().args(before).arg(&disk).args(after);
            let output = command.output(&Silent);
            output.unwrap_or_else(|error| panic!("{program}: {error}"));
            // The limit of what the next program writes follows the file's size.
            fs::File::options().write(true).open(&disk).unwrap().set_len(64 << 20).unwrap();
        }
        let root = std::process::Command::new("/usr/sbin/debugfs").args(["-R", "ls -p"]).arg(&disk).output();
        assert!(String::from_utf8_lossy(&root.unwrap().stdout).contains("/sub/"));
    }

    /// What a hostile disk would do if it could take `e2fsck` over.
    #[test]
    fn a_program_with_the_rights_of_e2fsck_reaches_only_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let [disk, other] = ["disk", "other"].map(|name| dir.path().join(name));
        for path in [&disk, &other] {
            fs::write(path, "old\n").unwrap();
        }
        let take_over = |access, script: &str| {
            let mut shell = HostCommand::new("bash", TIMEOUT, rights(&disk, access).unwrap()).unwrap();
            shell.command().args(["--norc", "-c", script]).arg(&disk).arg(&other);
            shell.accept(255).output(&Silent).unwrap()
        };
        let script = "trap 'echo too large' XFSZ
            read line < $0 && echo read $line; echo new 2>/dev/null >$0 && echo written
            for i in 1 2 3; do echo more >>$0; done
            read line < $1 && echo other; echo x >$1 && echo other; echo x >$1.new && echo created
            exec 3<>/dev/tcp/127.0.0.1/1 || echo no network; (echo started)";
        assert_eq!(take_over(Access::Read, script), "read old\nno network\n");
        let written = take_over(Access::Write, script);
        assert_eq!(written, "read old\nwritten\ntoo large\ntoo large\ntoo large\nno network\n");
        assert_eq!(
            (fs::read(&disk).unwrap(), fs::read(&other).unwrap()),
            (b"new\n".to_vec(), b"old\n".to_vec())
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
