//! The lines in ssh's own configuration that include banger's.
//!
//! They are at its beginning: after a `Host` line, an Include applies only to that host. All other bytes stay
//! unchanged.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use banger_api::{ApiError, ErrorKind};
use banger_durable::Lock;

use super::files::failed;
use crate::steps::Step;

const BEGIN: &[u8] = b"# banger: begin\n";
/// First line in a file that banger created; banger deletes that file with its lines.
const BEGIN_IN_OWN_FILE: &[u8] = b"# banger: begin, in a file that banger made\n";
const END: &[u8] = b"# banger: end\n";

/// Maximum size of a configuration, in bytes.
const MAX_SIZE: u64 = 4 << 20;

/// Maximum number of symbolic links followed, as in Linux.
const MAX_LINKS: usize = 40;

/// The change to make to the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Edit<'a> {
    /// Put this line at the beginning.
    Install(&'a [u8]),
    /// Remove all of banger's lines.
    Uninstall,
}

/// Changes the configuration at `path` atomically; returns false if it needs no change. `lock` is the path of a lock
/// against other processes of banger that change it.
pub(crate) fn edit(path: &Path, edit: Edit<'_>, lock: &Path) -> Result<bool, ApiError> {
    lock.parent().map_or(Ok(()), banger_durable::create_dir).map_err(failed("create", lock))?;
    let Some(_lock) = Lock::try_acquire(lock).map_err(failed("lock", lock))? else {
        let holder = Lock::holder(lock).map_or("another process".to_owned(), |pid| format!("process {pid}"));
        return Err(ApiError::new(ErrorKind::Busy, format!("{holder} is changing {}", path.display())));
    };
    let path = &resolve_links(path).map_err(failed("read", path))?;
    let old = read(path)?;
    let (text, mode) = old.as_ref().map_or((None, 0o600), |(text, mode)| (Some(text.as_slice()), *mode));
    let new = match edit {
        Edit::Install(line) => install(text, line),
        Edit::Uninstall => uninstall(text),
    };
    let new = new.map_err(|Unclosed| {
        let message =
            format!("{} has a line `# banger: begin` and no `# banger: end` after it", path.display());
        ApiError::new(ErrorKind::Invalid, message).hint("remove the rest of banger's lines from it")
    })?;
    if new.as_deref() == text {
        return Ok(false);
    }
    let changed = Step::UsersConfig.around(|| match new {
        None => banger_durable::remove(path),
        Some(new) => {
            path.parent().map_or(Ok(()), banger_durable::create_dir)?;
            banger_durable::write(path, mode, |out| out.write_all(&new))
        }
    });
    changed.map_err(failed("write", path))?;
    Ok(true)
}

/// Returns whether the configuration at `path` includes `line` at its beginning.
pub(crate) fn is_installed(path: &Path, line: &[u8]) -> bool {
    fs::read(path).is_ok_and(|text| install(Some(&text), line) == Ok(Some(text)))
}

/// Returns the target of the symbolic links at `path`, which may not exist.
fn resolve_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            // The path is no link, or does not exist.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Returns the file's content and permissions.
fn read(path: &Path) -> Result<Option<(Vec<u8>, u32)>, ApiError> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.map_err(failed("stat", path))?,
    };
    let problem = if !meta.is_file() {
        "is not a file"
    } else if meta.len() > MAX_SIZE {
        "is too long to be ssh's configuration"
    } else if meta.uid() != rustix::process::geteuid().as_raw() {
        "belongs to another user"
    } else {
        let text = fs::read(path).map_err(failed("read", path))?;
        return Ok(Some((text, meta.mode() & 0o7777)));
    };
    Err(ApiError::new(ErrorKind::NotPermitted, format!("cannot change {}: it {problem}", path.display())))
}

/// Error for a begin line without an end line.
#[derive(Debug, PartialEq, Eq)]
struct Unclosed;

/// Returns `text` with banger's lines at its beginning; replaces existing ones.
fn install(text: Option<&[u8]>, line: &[u8]) -> Result<Option<Vec<u8>>, Unclosed> {
    let is_own_file = text.is_none_or(|text| text.starts_with(BEGIN_IN_OWN_FILE));
    let rest = without_lines(text.unwrap_or_default())?;
    let begin = if is_own_file { BEGIN_IN_OWN_FILE } else { BEGIN };
    Ok(Some([begin, line, b"\n", END, &rest].concat()))
}

/// Returns `text` without banger's lines, or `None` if banger created the file and nothing else is in it.
fn uninstall(text: Option<&[u8]>) -> Result<Option<Vec<u8>>, Unclosed> {
    let Some(text) = text else { return Ok(None) };
    let rest = without_lines(text)?;
    Ok(Some(rest).filter(|rest| !rest.is_empty() || !text.starts_with(BEGIN_IN_OWN_FILE)))
}

/// Returns `text` without the lines between begin and end lines.
fn without_lines(text: &[u8]) -> Result<Vec<u8>, Unclosed> {
    let mut kept = Vec::with_capacity(text.len());
    let mut inside = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line {
            BEGIN | BEGIN_IN_OWN_FILE if inside => return Err(Unclosed),
            BEGIN | BEGIN_IN_OWN_FILE => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            line => kept.extend_from_slice(line),
        }
    }
    if inside { Err(Unclosed) } else { Ok(kept) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    const LINE: &[u8] = b"Include \"/state/ssh/config\"";

    /// Generates texts with lines similar to banger's, with any line ends.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            Just(b"Host *\n".to_vec()),
            Just(b"\tProxyJump a\r\n".to_vec()),
            Just(b"# banger: end\n".to_vec()),
            Just(b"# banger: begins\n".to_vec()),
        ];
        prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn uninstall_restores_the_original_text_exactly(text in texts()) {
            let once = install(Some(&text), LINE).unwrap().unwrap();
            prop_assert!(once.ends_with(&text) && once.starts_with(BEGIN));
            prop_assert_eq!(install(Some(&once), LINE).unwrap().unwrap(), once.clone());
            let other = install(Some(&once), b"Include other").unwrap().unwrap();
            prop_assert!(other.ends_with(&text) && !other.windows(LINE.len()).any(|window| window == LINE));
            prop_assert_eq!(uninstall(Some(&other)).unwrap().unwrap(), text.clone());
            prop_assert_eq!(uninstall(Some(&text)).unwrap().unwrap(), text);
        }
    }

    #[test]
    fn uninstall_deletes_only_files_that_banger_created() {
        let created = install(None, LINE).unwrap().unwrap();
        assert_eq!(install(Some(&created), LINE).unwrap().unwrap(), created);
        assert_eq!(uninstall(Some(&created)), Ok(None));
        let edited = [&created, b"Host a\n".as_slice()].concat();
        assert_eq!(uninstall(Some(&edited)), Ok(Some(b"Host a\n".to_vec())));
        let empty = install(Some(b""), LINE).unwrap().unwrap();
        assert_eq!(uninstall(Some(&empty)), Ok(Some(Vec::new())));
        assert_eq!(uninstall(None), Ok(None));
    }

    #[test]
    fn a_begin_line_without_an_end_line_is_an_error() {
        for text in ["# banger: begin\nHost a\n", "# banger: begin\n# banger: begin\n# banger: end\n"] {
            assert_eq!(install(Some(text.as_bytes()), LINE), Err(Unclosed));
            assert_eq!(uninstall(Some(text.as_bytes())), Err(Unclosed));
        }
    }

    #[test]
    fn edit_follows_links_and_keeps_permissions() {
        let home = tempfile::tempdir().unwrap();
        let (link, file) = (home.path().join(".ssh/config"), home.path().join("dotfiles/ssh"));
        fs::create_dir(home.path().join(".ssh")).unwrap();
        fs::create_dir(home.path().join("dotfiles")).unwrap();
        symlink("../dotfiles/ssh", &link).unwrap();
        fs::write(&file, "Host a\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!is_installed(&link, LINE));
        assert!(edit(&link, Edit::Install(LINE), &home.path().join("lock")).unwrap());
        assert!(!edit(&link, Edit::Install(LINE), &home.path().join("lock")).unwrap());
        assert!(is_installed(&link, LINE) && link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(edit(&link, Edit::Uninstall, &home.path().join("lock")).unwrap());
        assert!(!edit(&link, Edit::Uninstall, &home.path().join("lock")).unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"Host a\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn uninstall_removes_a_file_that_install_created() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".ssh/config");
        assert!(!edit(&path, Edit::Uninstall, &home.path().join("lock")).unwrap());
        assert!(edit(&path, Edit::Install(LINE), &home.path().join("lock")).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(edit(&path, Edit::Uninstall, &home.path().join("lock")).unwrap());
        assert!(!path.exists());
    }
}
