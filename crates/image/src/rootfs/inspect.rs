//! Detects the system in a tree.

use std::fs::File;
use std::io::Read;

use banger_api::is_hidden;
use banger_proto::{Executable, Root, find_init};

use super::content::ContentReader;
use super::tree::{NodeKind, Tree};

/// Paths of os-release(5).
const OS_RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Maximum number of bytes read of a text file.
const MAX_TEXT: u64 = 64 << 10;

/// Maximum length of a system's name, in characters.
const MAX_NAME: usize = 100;

/// A root file system: a tree whose files are in archives.
pub(super) struct System<'a> {
    pub(super) tree: &'a Tree,
    pub(super) archives: &'a [&'a File],
}

impl System<'_> {
    /// Returns the path of the init.
    pub(super) fn init(&self) -> Option<String> {
        find_init(self).map(ToOwned::to_owned)
    }

    /// Returns the system's display name.
    pub(super) fn os(&self) -> Option<String> {
        OS_RELEASES.iter().filter_map(|path| pretty_name(&self.text(path)?)).next()
    }
}

impl Root for System<'_> {
    fn program(&self, path: &str) -> Option<Executable> {
        let (id, name) = self.tree.lookup_named(path)?;
        let node = self.tree.node(id);
        let is_executable = matches!(node.kind, NodeKind::File { .. }) && node.attributes.mode & 0o111 != 0;
        is_executable.then(|| Executable { name: name.to_owned(), file: id.into() })
    }

    fn text(&self, path: &str) -> Option<String> {
        let NodeKind::File { size, archive, extents } = &self.tree.node(self.tree.lookup(path)?).kind else {
            return None;
        };
        let archive = self.archives.get(usize::from(*archive))?;
        let mut bytes = Vec::new();
        ContentReader::new(archive, *size, extents).take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    let name: String = value.chars().filter(|c| !is_hidden(*c) && *c != '\\').take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_names_are_truncated_and_lose_hidden_characters() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"A \x1b[1m\u{202e}B\"\n").unwrap(), "A [1mB");
        assert_eq!(pretty_name("PRETTY_NAME='A'").unwrap(), "A");
        assert_eq!(pretty_name("PRETTY_NAME="), None);
        assert_eq!(pretty_name(&format!("PRETTY_NAME={}", "ä".repeat(500))).unwrap().chars().count(), 100);
        assert_eq!(pretty_name("PRETTY_NAME=\"").unwrap(), "\"");
    }
}
