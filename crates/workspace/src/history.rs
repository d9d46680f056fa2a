//! The recent history of a commit: as many generations as are wanted, and where that ends.

use std::collections::{BTreeSet, HashSet};

use crate::{
    WorkspaceError,
    git::{Objects, odd},
    scratch::Scratch,
};

/// Commits, and where their history ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// All of them.
    pub(crate) commits: BTreeSet<String>,
    /// Those among them with a parent that is not.
    pub(crate) shallow: BTreeSet<String>,
}

/// The commits `tips` and their ancestors, `depth` generations in all, but none that `known` has. Those in `ends` have no
/// parents here.
pub(crate) fn history(
    scratch: &Scratch,
    tips: Vec<String>,
    depth: u32,
    ends: &[String],
    known: &BTreeSet<String>,
) -> Result<History, WorkspaceError> {
    if tips.is_empty() {
        return Ok(History::default());
    }
    let ends: HashSet<_> = ends.iter().map(String::as_str).collect();
    let mut objects = Objects::begin(scratch.command(["cat-file", "--batch"]))?;
    let mut history = History::default();
    let mut generation = tips;
    let mut parents_of: Vec<(String, Vec<String>)> = Vec::new();
    for _ in 0..depth {
        let mut next = Vec::new();
        for id in generation {
            if known.contains(&id) || !history.commits.insert(id.clone()) {
                continue;
            }
            let header = objects.ask(&id)?;
            if header.kind != "commit" {
                return Err(odd("cat-file", format!("{id} is a {}, not a commit", header.kind)).into());
            }
            let parents = parents(&objects.bytes(&header)?);
            if ends.contains(id.as_str()) && !parents.is_empty() {
                history.shallow.insert(id);
                continue;
            }
            next.extend(parents.iter().cloned());
            parents_of.push((id, parents));
        }
        generation = next;
    }
    for (id, parents) in parents_of {
        if parents.iter().any(|parent| !history.commits.contains(parent) && !known.contains(parent)) {
            history.shallow.insert(id);
        }
    }
    Ok(history)
}

/// The parents that a commit names.
fn parents(commit: &[u8]) -> Vec<String> {
    let lines = commit.split(|byte| *byte == b'\n');
    let header = lines.take_while(|line| !line.is_empty());
    header
        .filter_map(|line| line.strip_prefix(b"parent "))
        .map(|id| String::from_utf8_lossy(id).into_owned())
        .collect()
}
