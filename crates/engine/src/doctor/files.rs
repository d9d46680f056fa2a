//! Checks of banger's directories, sockets and lock, and of the agent program.

use std::{
    fs::{self, File},
    path::Path,
};

use banger_api::{ApiError, Check, Dirs, ErrorKind, Remedy, Size, SubjectKind};

use super::finding::{Finding, into_check};
use crate::{
    admission::with_existing_ancestor, dirs, error::EngineError, files::disk_usage, layout::SET_ASIDE_PREFIX,
    programs::Programs, runtime_dir, store_lock,
};

pub(super) fn all(dirs: &Dirs, programs: &Programs) -> Vec<Check> {
    let dir = |name: &str, path: &Path| into_check(name, check_private_dir(name, path));
    vec![
        dir("state directory", &dirs.state),
        dir("cache directory", &dirs.cache),
        dir("runtime directory", &dirs.runtime),
        sockets(&dirs.runtime),
        into_check("store lock", check_host(dirs)),
        into_check("guest agent", check_agent(&programs.agent)),
    ]
    .into_iter()
    .chain(set_aside(&dirs.state))
    .collect()
}

/// Checks that a directory belongs to this user only, or can be created.
pub(crate) fn check_private_dir(name: &str, path: &Path) -> Finding {
    if dirs::is_private(path).map_err(ApiError::from)? {
        return Ok(Check::pass(name, path.display().to_string()));
    }
    if path.exists() {
        return Ok(Check::pass(
            name,
            format!("{} is open to other users; the next use makes it private", path.display()),
        ));
    }
    let writable = |dir: &Path| {
        rustix::fs::access(dir, rustix::fs::Access::EXISTS)?;
        Ok(rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok())
    };
    if with_existing_ancestor(path, writable).unwrap_or(false) {
        return Ok(Check::pass(name, format!("{} will be created on first use", path.display())));
    }
    let message = format!("{} does not exist, and this user cannot create it", path.display());
    Err(ApiError::new(ErrorKind::NotPermitted, message).remedy(Remedy::MakeDirectoryWritable))
}

/// Warns of files set aside, of another store or after a power loss: only the user can judge their value. `None` if there are none.
fn set_aside(state: &Path) -> Option<Check> {
    let entries = fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path());
    let aside: Vec<_> = entries
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SET_ASIDE_PREFIX))
        })
        .collect();
    let size: u64 = aside.iter().map(|dir| disk_usage(dir).as_bytes()).sum();
    let paths = aside.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
    (!aside.is_empty()).then(|| {
        let size = Size::bytes(size);
        let message = format!("{paths}: {size} of VMs, images and kernels that are not in the store");
        Check::warn("set aside", ApiError::new(ErrorKind::Store, message).remedy(Remedy::RestoreStore))
    })
}

/// Returns where sockets are, or will be.
fn sockets(runtime: &Path) -> Check {
    let message = match runtime_dir::excess(runtime) {
        0 => format!("in {}", runtime.display()),
        excess => format!(
            "will be in a directory of /tmp: the path of {} is {excess} characters too long",
            runtime.display()
        ),
    };
    Check::pass("sockets", message)
}

/// Checks that no daemon or VM of another host uses the store.
fn check_host(dirs: &Dirs) -> Finding {
    store_lock::check_host(dirs)?;
    Ok(Check::pass("store lock", "no other host uses the store"))
}

/// Checks the agent program, which is copied into every guest.
pub(crate) fn check_agent(path: &Path) -> Finding {
    File::open(path).map_err(|error| {
        let message = format!("cannot read the guest agent {}: {error}", path.display());
        ApiError::new(ErrorKind::MissingProgram, message).remedy(Remedy::Reinstall)
    })?;
    Ok(Check::pass("guest agent", path.display().to_string()))
}

/// Checks that a file of a row in the store exists and is not empty.
pub(crate) fn check_record(kind: SubjectKind, name: &str, path: &Path) -> Result<(), ApiError> {
    match path.metadata() {
        Ok(meta) if meta.len() > 0 => Ok(()),
        Ok(_) => Err(file_error(kind, name, path, "is empty")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(file_error(kind, name, path, "is gone"))
        }
        Err(error) => Err(EngineError::file("stat", path)(error).into()),
    }
}

fn file_error(kind: SubjectKind, name: &str, path: &Path, problem: &str) -> ApiError {
    let message = format!("the file of {} {name} {problem}: {}", kind.as_str(), path.display());
    ApiError::new(ErrorKind::Io, message).about(kind, name).remedy(Remedy::RestoreFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_empty_files_of_store_rows_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootfs.ext4");
        assert!(
            check_record(SubjectKind::Image, "box", &path).unwrap_err().message.contains("image box is gone")
        );
        std::fs::write(&path, "").unwrap();
        assert!(
            check_record(SubjectKind::Image, "box", &path)
                .unwrap_err()
                .message
                .contains("image box is empty")
        );
        std::fs::write(&path, "x").unwrap();
        check_record(SubjectKind::Image, "box", &path).unwrap();
    }
}
