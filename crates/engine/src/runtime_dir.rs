//! The directory of sockets: in the state directory if sockets can be there, else in `/tmp`.
//!
//! The path of a socket is limited to 107 bytes, and some file systems have no sockets.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use banger_api::{ApiError, ErrorKind, Remedy};

use crate::dirs;

/// Maximum path length of a Unix socket (unix(7)), without the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// The longest path of a socket below the directory: the id of a VM, and its guest's connection to a port of the host.
const LONGEST_SOCKET: &str = "vms/0123456789abcdef/vsock.sock_4294967295";

/// Where directories for sockets are created otherwise.
const FALLBACK: &str = "/tmp";

/// Returns how many characters a directory's path is too long for sockets; 0 if it is not.
pub(crate) fn excess(dir: &Path) -> usize {
    (dir.as_os_str().len() + 1 + LONGEST_SOCKET.len()).saturating_sub(MAX_SOCKET_PATH)
}

/// Returns the first directory that sockets can be in: `dir`, the `earlier` one, or a new one in `/tmp`.
///
/// # Errors
/// Returns an error if `dir` is not a directory of this user only, or there is no such directory.
pub(crate) fn choose(dir: &Path, earlier: Option<&Path>) -> Result<PathBuf, ApiError> {
    let in_dir = match excess(dir) {
        0 => {
            dirs::create_private(dir)?;
            match try_socket(dir) {
                Ok(()) => return Ok(dir.to_owned()),
                Err(error) => error.to_string(),
            }
        }
        excess => format!("its path is {excess} characters too long"),
    };
    let is_usable = |dir: &Path| dirs::create_private(dir).is_ok() && try_socket(dir).is_ok();
    if let Some(earlier) = earlier.filter(|earlier| *earlier != dir && is_usable(earlier)) {
        return Ok(earlier.to_owned());
    }
    let prefix = format!("banger-{}-", rustix::process::getuid().as_raw());
    let private = fs::Permissions::from_mode(0o700);
    let created = tempfile::Builder::new().prefix(&prefix).permissions(private).tempdir_in(FALLBACK);
    let fallback = created.and_then(|created| try_socket(created.path()).map(|()| created.keep()));
    fallback.map_err(|error| {
        let message = format!(
            "cannot create sockets in {}: {in_dir}; nor in a directory of {FALLBACK}: {error}",
            dir.display()
        );
        ApiError::new(ErrorKind::Io, message).remedy(Remedy::MakeDirectoryWritable)
    })
}

/// Creates a socket in a directory, and removes it.
fn try_socket(dir: &Path) -> io::Result<()> {
    let path = dir.join("try.sock");
    // Left by a daemon that was killed.
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path)?;
    fs::remove_file(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_elsewhere_if_the_path_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let short = dir.path().join("run");
        assert_eq!(choose(&short, None).unwrap(), short);
        assert_eq!(fs::read_dir(&short).unwrap().count(), 0);
        let long = dir.path().join("x".repeat(70));
        assert!(excess(&long) > 0);
        let elsewhere = choose(&long, None).unwrap();
        assert!(elsewhere.starts_with(FALLBACK) && dirs::is_private(&elsewhere).unwrap(), "{elsewhere:?}");
        assert_eq!(choose(&long, Some(&elsewhere)).unwrap(), elsewhere);
        // Another user's, or not a directory.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        let other = choose(&long, Some(&link)).unwrap();
        assert!(other != link && other != elsewhere);
        for created in [elsewhere, other] {
            fs::remove_dir(created).unwrap();
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(choose(&file, None).unwrap_err().message.contains("is not a directory"));
    }
}
