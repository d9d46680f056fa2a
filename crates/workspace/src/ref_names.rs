//! The names of a guest's work in the host's repository, all below `refs/banger/VM/`.
//!
//! ```text
//! HEAD                         the checked-out commit
//! uncommitted                  a commit of the files, if they differ from HEAD
//! index                        a commit of the staged files, if they differ from both;
//! index-base, index-theirs     the other sides of conflicts in it
//! heads/… tags/… notes/… remotes/…    refs of that kind
//! refs/…                       all other refs
//! stash/0, stash/1, …          the stash, the latest first
//! state/…                      ORIG_HEAD, rebase-merge/autostash and other names of an operation in progress
//! reflog/COMMIT                commits that only logs and the state of operations name
//! worktrees/NAME/…             HEAD, uncommitted, index, refs and state of another working tree
//! renamed/OBJECT               what has a name that this host cannot store
//! replaced/COMMIT              work of an earlier pull that nothing else here contains
//! ```
//!
//! The first component decides the kind, so names of the guest never collide with banger's or with another kind's.

use std::collections::{BTreeMap, BTreeSet};

/// Maximum length of a component, in bytes: git appends `.lock`, and file systems permit 255.
const MAX_COMPONENT: usize = 250;

/// Maximum length of a name, in bytes. With the path of the repository, it remains below Linux's `PATH_MAX`.
const MAX_NAME: usize = 2048;

/// Names for the refs to set, without collisions.
#[derive(Debug)]
pub(crate) struct RefNames {
    prefix: String,
    /// Whether the file system does not distinguish upper and lower case.
    ignore_case: bool,
    /// Objects by full name.
    refs: BTreeMap<String, String>,
    /// The names as the file system compares them.
    keys: BTreeSet<String>,
    /// The guest's names that could not be used, with those used instead.
    pub(crate) renamed: Vec<(String, String)>,
}

impl RefNames {
    /// Creates names for the VM `vm`.
    pub(crate) fn new(vm: &str, ignore_case: bool) -> Self {
        let (refs, keys) = (BTreeMap::new(), BTreeSet::new());
        Self { prefix: format!("refs/banger/{vm}/"), ignore_case, refs, keys, renamed: Vec::new() }
    }

    /// Returns the start of all names.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns all refs with their objects, ordered by name.
    pub(crate) fn refs(&self) -> &BTreeMap<String, String> {
        &self.refs
    }

    /// Adds the ref `name`, without the prefix, for the object `id`. An unusable name is replaced.
    pub(crate) fn add(&mut self, name: &[u8], id: &str) {
        let wanted = std::str::from_utf8(name).ok().filter(|name| is_valid(name));
        let wanted = wanted.map(|name| format!("{}{name}", self.prefix));
        if wanted.as_ref().and_then(|name| self.refs.get(name)).is_some_and(|other| other == id) {
            return;
        }
        let full_name = wanted.filter(|name| !self.is_taken(name)).unwrap_or_else(|| {
            // An id is valid, and always means the same object.
            let used = format!("{}renamed/{id}", self.prefix);
            self.renamed.push((String::from_utf8_lossy(name).into_owned(), used.clone()));
            used
        });
        self.keys.insert(self.key(&full_name));
        self.refs.insert(full_name, id.to_owned());
    }

    /// Returns whether `name` is the name of another ref, or of a directory of refs, or is below another ref.
    fn is_taken(&self, name: &str) -> bool {
        let key = self.key(name);
        let below = format!("{key}/");
        self.keys.contains(&key)
            || self.keys.range(below.clone()..).next().is_some_and(|other| other.starts_with(&below))
            || key.match_indices('/').any(|(at, _)| self.keys.contains(key.get(..at).unwrap_or_default()))
    }

    fn key(&self, name: &str) -> String {
        if self.ignore_case { name.to_lowercase() } else { name.to_owned() }
    }
}

/// Returns a name below `dir` for the object `id`, of which `taken` returns whether another object has it.
pub(crate) fn by_id(dir: &str, id: &str, taken: impl Fn(&str) -> bool) -> String {
    let short = format!("{dir}{}", id.get(..12).unwrap_or(id));
    if taken(&short) { format!("{dir}{id}") } else { short }
}

/// Returns whether git accepts `name` as a part of a ref's name, and file systems can store it.
fn is_valid(name: &str) -> bool {
    let is_forbidden = |char: char| {
        char.is_ascii_control() || matches!(char, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
    };
    let is_component = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock") && part.len() <= MAX_COMPONENT
    };
    name.len() <= MAX_NAME
        && !name.chars().any(is_forbidden)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name.split('/').all(is_component)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";
    const OTHER: &str = "0123456789013333333333333333333333333333";

    fn names(ignore_case: bool, names: &[&[u8]]) -> Vec<String> {
        let mut all = RefNames::new("box", ignore_case);
        for (at, name) in names.iter().enumerate() {
            all.add(name, &format!("{at:040}"));
        }
        assert_eq!(all.refs().len(), names.len(), "each has a name of its own");
        all.refs().keys().map(|name| name.strip_prefix("refs/banger/box/").unwrap().to_owned()).collect()
    }

    #[test]
    fn names_that_collide_are_replaced() {
        let renamed = |at: usize| format!("renamed/{at:040}");
        assert_eq!(names(false, &[b"heads/a", b"heads/A"]), ["heads/A", "heads/a"]);
        assert_eq!(names(true, &[b"heads/a", b"heads/A"]), ["heads/a".to_owned(), renamed(1)]);
        assert_eq!(names(true, &[b"heads/A/b", b"heads/a"]), ["heads/A/b".to_owned(), renamed(1)]);
        assert_eq!(names(false, &[b"heads/a/b/c", b"heads/a/b"]), ["heads/a/b/c".to_owned(), renamed(1)]);
        assert_eq!(names(false, &[b"heads/a", b"heads/a/b/c"]), ["heads/a".to_owned(), renamed(1)]);
        assert_eq!(names(false, &[b"heads/a", b"heads/a-b", b"heads/a.b"]).len(), 3);
        assert_eq!(names(false, &[b"heads/a", b"heads/a"]), ["heads/a".to_owned(), renamed(1)]);
        // Ids with the same beginning.
        assert_eq!(by_id("reflog/", ID, |_| false), "reflog/012345678901");
        assert_eq!(by_id("reflog/", OTHER, |name| name == "reflog/012345678901"), format!("reflog/{OTHER}"));
    }

    #[test]
    fn unusable_names_are_replaced() {
        let long = [b"heads/", &*vec![b'x'; 251]].concat();
        let deep = [b"heads", &*b"/xxxxxxx".repeat(300)].concat();
        for name in [&b"heads/\xff"[..], &long, &deep, b"heads/a\nupdate x", b"heads/../HEAD", b"heads//a"] {
            assert_eq!(names(false, &[name]), [format!("renamed/{:040}", 0)], "{}", name.escape_ascii());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        /// git accepts every name that is used.
        #[test]
        fn git_accepts_the_names(name in "[a@{.*~^:?\\[\\\\ /\u{7f}\u{1}lock\u{e9}-]{1,8}(\\.lock)?") {
            let checked = Command::new("git").args(["check-ref-format", &format!("refs/x/{name}")]).output();
            prop_assert_eq!(is_valid(&name), checked.unwrap().status.success(), "{:?}", name);
        }
    }
}
