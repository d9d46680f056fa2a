//! `[[file_sync]]`: user files that are copied into every VM, or that a project requests.

use schemars::JsonSchema;
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::lists::{check_keys, entries, text};

/// Mount point of the work disk; files outside of it would not last.
const GUEST_HOME: &str = "/root";

/// A file or directory of the user, and its path in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FileSync {
    /// Path on the host: absolute, or beginning with `~/`.
    pub host: String,
    /// Path in the guest, relative to `/root`.
    pub guest: String,
    /// Permission bits of a file; `None` means 0600. Files in a directory keep their own.
    pub mode: Option<u32>,
}

impl FileSync {
    /// Parses the list `value`. An error names the entry and its problem.
    pub(super) fn read_all(value: &DeValue<'_>) -> Result<Vec<Self>, String> {
        entries("file_sync", value, Self::read)
    }

    fn read(table: &DeTable<'_>) -> Result<Self, String> {
        check_keys(table, &["host", "guest", "mode"])?;
        let text = |name| text(table, name);
        let host = text("host")?.ok_or("host is missing: a path on the host")?;
        if !host.starts_with('/') && !host.starts_with("~/") || !is_plain(&host) {
            return Err(format!("host {host:?} must be absolute or begin with ~/, without `..`"));
        }
        let guest = match (text("guest")?, host.strip_prefix("~/")) {
            (Some(guest), _) => relative_to_home(&guest)?,
            (None, Some(rest)) => relative_to_home(&format!("~/{rest}"))?,
            (None, None) => return Err("guest is missing: a path under /root".to_owned()),
        };
        let mode = text("mode")?.as_deref().map(octal).transpose()?;
        Ok(Self { host, guest, mode })
    }
}

/// Returns `guest` relative to `/root`.
fn relative_to_home(guest: &str) -> Result<String, String> {
    let rest = guest.strip_prefix("~/").or_else(|| guest.strip_prefix(GUEST_HOME)?.strip_prefix('/'));
    let rest = rest.map(|rest| rest.trim_matches('/')).filter(|rest| !rest.is_empty() && is_plain(guest));
    rest.map(str::to_owned).ok_or_else(|| format!("guest {guest:?} must be under /root, without `..`"))
}

fn is_plain(path: &str) -> bool {
    !path.split('/').any(|name| matches!(name, "." | "..")) && !path.contains(['\0', '\n'])
}

/// Parses permission bits in octal, as for chmod(1).
fn octal(mode: &str) -> Result<u32, String> {
    let digits = matches!(mode.len(), 3 | 4) && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| digits && *bits <= 0o777);
    bits.ok_or_else(|| format!("mode {mode:?} is not valid: expected octal up to 0777, such as \"0600\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<FileSync>, String> {
        let table = DeTable::parse(text).unwrap();
        FileSync::read_all(table.get_ref().get("file_sync").unwrap().get_ref())
    }

    #[test]
    fn file_sync_entries_are_parsed() {
        let text = "[[file_sync]]\nhost = '~/.gitconfig'\n[[file_sync]]\nhost = '/etc/x'\nguest = '/root/a/x'\nmode = '0644'\n";
        let entry = |host: &str, guest: &str, mode| FileSync { host: host.into(), guest: guest.into(), mode };
        assert_eq!(
            read(text).unwrap(),
            [entry("~/.gitconfig", ".gitconfig", None), entry("/etc/x", "a/x", Some(0o644))]
        );
    }

    #[test]
    fn invalid_entries_are_rejected_with_their_number() {
        for (entry, why) in [
            ("guest = '/root/x'", "host is missing"),
            ("host = 'x'", "must be absolute or begin with ~/"),
            ("host = '~/../x'", "without `..`"),
            ("host = '/x'", "guest is missing"),
            ("host = '/x'\nguest = '/etc/x'", "must be under /root"),
            ("host = '/x'\nguest = '/root'", "must be under /root"),
            ("host = '/x'\nguest = '/rooted/x'", "must be under /root"),
            ("host = '/x'\nguest = '/root/../etc'", "without `..`"),
            ("host = '~/x'\nmode = '0888'", "is not valid"),
            ("host = '~/x'\nmode = '4755'", "is not valid"),
            ("host = '~/x'\nmode = 384", "must be a quoted string"),
            ("host = '~/x'\nguets = '/root/x'", "did you mean guest?"),
        ] {
            let error =
                read(&format!("[[file_sync]]\nhost = '~/fine'\n[[file_sync]]\n{entry}\n")).unwrap_err();
            assert!(error.starts_with("entry 2: ") && error.contains(why), "{entry}: {error}");
        }
        assert!(read("file_sync = 1").is_err());
    }
}
