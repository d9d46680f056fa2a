//! Content of `/etc/hosts`, and helpers that read and atomically replace the guest's files.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
    path::Path,
};

use rustix::process::{getegid, geteuid};

const BEGIN: &str = "# banger: begin";
const END: &str = "# banger: end";

/// Maximum size of a file that is read in order to change it, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Returns `old` with the lines between banger's markers replaced; all other lines are kept. Adds `localhost` if the
/// file does not have it.
pub(super) fn hosts(old: &str, hostname: Option<&str>, more: &BTreeMap<String, Vec<String>>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    for line in old.lines() {
        match line {
            BEGIN => inside = true,
            END => inside = false,
            _ if inside => {}
            line => lines.push(line.to_owned()),
        }
    }
    lines.push(BEGIN.to_owned());
    if !lines.iter().any(|line| line.starts_with("127.0.0.1") && line.contains("localhost")) {
        lines.push("127.0.0.1 localhost".to_owned());
    }
    // As in Debian (its reference, 5.1.1): the guest's own name has an address even without a network.
    lines.extend(hostname.map(|name| format!("127.0.1.1 {name}")));
    lines.extend(more.iter().map(|(address, names)| format!("{address} {}", names.join(" "))));
    lines.push(END.to_owned());
    lines.join("\n") + "\n"
}

/// Replaces the content of `path` atomically. A link, such as systemd-resolved's, is replaced by a file.
pub(super) fn replace(path: &str, content: &str) -> io::Result<()> {
    let path = Path::new(path);
    let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    if !is_link && fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let partial = path.with_extension("banger-new");
    fs::write(&partial, content)?;
    fs::rename(partial, path)
}

/// Returns the content of the file at `path`, or `None` if it does not exist.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(wrong_type("a file", path)),
        Ok(meta) if meta.len() > MAX_SIZE => Err(wrong_type("a file of at most 1 MiB", path)),
        Ok(_) => fs::read(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `content` to `path` atomically, unless it is unchanged. Sets root as the owner, and these permissions: by
/// default the file's own, or 0644 for a new file.
pub(crate) fn install(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    let existing = read(path)?;
    let mode = match (mode, &existing) {
        (Some(mode), _) => mode,
        (None, Some(_)) => fs::symlink_metadata(path)?.mode() & 0o7777,
        (None, None) => 0o644,
    };
    if existing.is_none_or(|old| old != content) {
        let partial = path.with_extension("banger-new");
        // Left by a process that was killed.
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        // Not synced: when a rename replaces a file, ext4 writes the new data before the name.
        fs::rename(partial, path)?;
    }
    set_owner_and_mode(path, mode)
}

/// Sets root as the owner of `path`, and these permissions.
pub(super) fn set_owner_and_mode(path: &Path, mode: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    // The agent runs as root; a test runs as its user.
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if meta.uid() != user {
        lchown(path, Some(user), Some(group))?;
    }
    if meta.mode() & 0o7777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Returns the error that `path` is not `expected`.
pub(super) fn wrong_type(expected: &str, path: &Path) -> io::Error {
    io::Error::other(format!("{} is not {expected}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_replaces_bangers_lines_and_keeps_all_others() {
        let more = [("10.0.0.2".to_owned(), vec!["db".to_owned(), "db.vm".to_owned()])].into();
        let once = hosts("127.0.0.1 localhost\n::1 ip6-localhost\n", Some("box"), &more);
        assert_eq!(
            once,
            "127.0.0.1 localhost\n::1 ip6-localhost\n# banger: begin\n127.0.1.1 box\n10.0.0.2 db db.vm\n# banger: end\n"
        );
        assert_eq!(hosts(&once, Some("box"), &more), once);
        let renamed = hosts(&once, Some("other"), &BTreeMap::new());
        assert!(renamed.contains("127.0.1.1 other") && !renamed.contains("box") && !renamed.contains("db"));
        assert!(hosts("", None, &BTreeMap::new()).contains("127.0.0.1 localhost"));
    }
}
