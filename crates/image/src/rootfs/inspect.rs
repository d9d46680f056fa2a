//! What a tree says about the system in it.

use std::fs::File;
use std::io::Read;

use super::content::Content;
use super::tree::{NodeKind, Tree};

/// Where an init is looked for, as the kernel does, and systemd where nothing links to it.
const INITS: [&str; 3] = ["/sbin/init", "/etc/init", "/usr/lib/systemd/systemd"];

/// os-release(5).
const OS_RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Most bytes read of an os-release file.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// Most characters of a system's name.
const MAX_NAME: usize = 100;

/// The first program that can be a system's init.
pub(super) fn init(tree: &Tree) -> Option<String> {
    let executable = |path: &&&str| {
        tree.lookup(path).is_some_and(|id| {
            let node = tree.node(id);
            matches!(node.kind, NodeKind::File { .. }) && node.attributes.mode & 0o111 != 0
        })
    };
    INITS.iter().find(executable).map(|path| (*path).to_owned())
}

/// The system's name for people.
pub(super) fn os(tree: &Tree, archives: &[&File]) -> Option<String> {
    let files = OS_RELEASES.iter().filter_map(|path| {
        let NodeKind::File { size, archive, extents } = &tree.node(tree.lookup(path)?).kind else {
            return None;
        };
        let mut bytes = Vec::new();
        Content::new(archives.get(usize::from(*archive))?, *size, extents)
            .take(MAX_OS_RELEASE)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    });
    files.filter_map(|text| pretty_name(&text)).next()
}

fn pretty_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    let name: String = value.chars().filter(|c| !c.is_control() && *c != '\\').take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"A \x1b[1mB\"\n").unwrap(), "A [1mB");
        assert_eq!(pretty_name("PRETTY_NAME='A'").unwrap(), "A");
        assert_eq!(pretty_name("PRETTY_NAME="), None);
        assert_eq!(pretty_name(&format!("PRETTY_NAME={}", "ä".repeat(500))).unwrap().chars().count(), 100);
        assert_eq!(pretty_name("PRETTY_NAME=\"").unwrap(), "\"");
    }
}
