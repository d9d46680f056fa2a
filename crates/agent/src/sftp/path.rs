//! Paths in clients' requests.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::users;

/// Returns the path in `bytes`; an empty one is the session's first directory.
pub(super) fn path(bytes: &[u8]) -> PathBuf {
    let bytes = if bytes.is_empty() { b"." } else { bytes };
    OsStr::from_bytes(bytes).into()
}

/// Returns `path` without links and dots. The last component need not exist.
pub(super) fn canonical(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(fs::canonicalize(parent)?.join(name))
        }
        path => path,
    }
}

/// Expands a tilde at the beginning of `bytes` to a home directory.
pub(super) fn expand_tilde(bytes: &[u8]) -> io::Result<PathBuf> {
    let Some(rest) = bytes.strip_prefix(b"~") else { return Ok(path(bytes)) };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let mut home = if name.is_empty() {
        env::var_os("HOME").unwrap_or_else(|| "/".into())
    } else {
        let name = String::from_utf8_lossy(name);
        let user = users::lookup(Some(&name)).map_err(|_| io::ErrorKind::NotFound)?;
        OsString::from(user.home)
    }
    .into_vec();
    home.extend_from_slice(rest);
    Ok(OsString::from_vec(home).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_resolves_links_and_accepts_a_missing_last_component() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&dir, dir.join("link")).unwrap();
        assert_eq!(canonical(&dir.join("link/.")).unwrap(), dir);
        assert_eq!(canonical(&dir.join("link/new")).unwrap(), dir.join("new"));
        assert!(canonical(&dir.join("link/no/new")).is_err());
        assert_eq!(canonical(Path::new("new-here")).unwrap(), env::current_dir().unwrap().join("new-here"));
    }

    #[test]
    fn a_tilde_expands_to_a_home_directory() {
        let home = env::var_os("HOME").unwrap();
        assert_eq!(expand_tilde(b"~").unwrap(), PathBuf::from(&home));
        assert_eq!(expand_tilde(b"~/a\xff").unwrap(), Path::new(&home).join(OsStr::from_bytes(b"a\xff")));
        assert_eq!(expand_tilde(b"~root/a").unwrap(), Path::new("/root/a"));
        assert_eq!(expand_tilde(b"a/~").unwrap(), Path::new("a/~"));
        assert!(expand_tilde(b"~no-such-user").is_err());
    }
}
