//! The files that tell names: `/etc/hosts` and its like.

use std::{collections::BTreeMap, fs, io, path::Path};

const BEGIN: &str = "# banger: begin";
const END: &str = "# banger: end";

/// `old` with the lines between banger's marks made anew; everything else stays as it is. A file that had no name for
/// the guest itself gets one.
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
    // Debian's way (its reference, 5.1.1): the host's own name has an address even without a network.
    lines.extend(hostname.map(|name| format!("127.0.1.1 {name}")));
    lines.extend(more.iter().map(|(address, names)| format!("{address} {}", names.join(" "))));
    lines.push(END.to_owned());
    lines.join("\n") + "\n"
}

/// Gives `path` this content, at once and whole. A link, such as systemd-resolved's, is replaced by a file.
pub(super) fn replace(path: &str, content: &str) -> io::Result<()> {
    let path = Path::new(path);
    let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    if !is_link && fs::read(path).is_ok_and(|old| old == content.as_bytes()) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = path.with_extension("banger-new");
    fs::write(&partial, content)?;
    fs::rename(partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_replaced_and_others_stay() {
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
