//! Creates the two disks of a run: the input disk and the work disk.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::terminal;
use crate::command::{as_root, check};

const INIT: &str = include_str!("init.sh");

/// Size of the work disk, which is sparse.
const WORK_DISK: &str = "16G";

/// Contents of a lab's input disk.
#[derive(Debug)]
pub(super) struct Input<'a> {
    /// Directory of the built programs; it may not exist yet.
    pub(super) programs: &'a Path,
    /// Directory of the programs of which banger and bangerd have fail points; it may not exist yet.
    pub(super) programs_with_fail_points: &'a Path,
    pub(super) tools: &'a Path,
    /// The test program with the scenarios, /in/smoke/scenarios in the lab.
    pub(super) smoke: Option<&'a Path>,
    pub(super) command: &'a [OsString],
    pub(super) terminal: bool,
}

impl Input<'_> {
    /// Creates the input disk, `in.ext4`, in a directory.
    pub(super) fn create_disk(&self, dir: &Path) -> Result<()> {
        let staged = dir.join("in");
        for name in ["programs", "failing", "tools", "smoke"] {
            fs::create_dir_all(staged.join(name))?;
        }
        let mut size = copy_files(&files_in(self.programs)?, &staged.join("programs"))?;
        size += copy_files(&files_in(self.programs_with_fail_points)?, &staged.join("failing"))?;
        size += copy_files(&files_in(self.tools)?, &staged.join("tools"))?;
        let smoke = self.smoke.map(|program| ("scenarios".to_owned(), program.to_path_buf()));
        size += copy_files(smoke.as_slice(), &staged.join("smoke"))?;
        let init = staged.join("init");
        fs::write(&init, INIT)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        fs::write(staged.join("command"), nul_terminated(self.command)?)?;
        if self.terminal {
            fs::write(staged.join("terminal"), terminal::description()?)?;
        }
        // Space for the file system's metadata.
        let mebibytes = size / (1 << 20) * 9 / 8 + 32;
        create_ext4(&dir.join("in.ext4"), &format!("{mebibytes}M"), Some(&staged))?;
        fs::remove_dir_all(&staged)?;
        Ok(())
    }
}

/// Creates a work disk in `cache`, with the template in it if there is one. The file is already unlinked, so it
/// disappears when xtask exits, even if killed.
pub(super) fn create_work_disk(template: &Path, cache: &Path) -> Result<File> {
    let dir = tempfile::Builder::new().prefix("work-").tempdir_in(cache)?;
    let disk = dir.path().join("work.ext4");
    create_ext4(&disk, WORK_DISK, template.exists().then_some(template))?;
    Ok(File::open(disk)?)
}

/// Copies a work disk into a directory, sharing blocks if the file system supports it.
pub(super) fn copy_work_disk(disk: &File, dir: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--reflink=auto", "--sparse=always", "/dev/stdin"]).arg(dir.join("work.ext4"));
    check(cp.stdin(disk.try_clone()?))
}

fn create_ext4(disk: &Path, size: &str, content: Option<&Path>) -> Result<()> {
    let lazy = "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0";
    let mut mke2fs = as_root("mke2fs")?;
    // mke2fs prints a message about the new file even with `-q`.
    mke2fs.stdout(Stdio::null()).args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", lazy]);
    if let Some(content) = content {
        mke2fs.arg("-d").arg(content);
    }
    check(mke2fs.arg(disk).arg(size))
}

/// Terminates each argument with a NUL, so that nothing needs quoting.
fn nul_terminated(command: &[OsString]) -> Result<Vec<u8>> {
    ensure!(!command.is_empty(), "there is no command to run");
    Ok(command.iter().flat_map(|word| word.as_bytes().iter().copied().chain([0])).collect())
}

fn files_in(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let name_and_path =
        |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(name_and_path(entry?))).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => bail!("{}: {error}", dir.display()),
    }
}

/// Hard-links `files` into a directory, or copies them across file systems. Returns their total length.
fn copy_files(files: &[(String, PathBuf)], dir: &Path) -> Result<u64> {
    let mut size = 0;
    for (name, file) in files {
        let target = dir.join(name);
        fs::hard_link(file, &target)
            .or_else(|_| fs::copy(file, &target).map(drop))
            .with_context(|| file.display().to_string())?;
        size += fs::metadata(&target)?.len();
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_with_any_characters_are_nul_terminated() {
        assert_eq!(
            nul_terminated(&["sh".into(), "a 'b'\n$c".into(), "".into()]).unwrap(),
            b"sh\0a 'b'\n$c\0\0"
        );
        assert!(nul_terminated(&[]).is_err());
    }
}
