//! The recent history of a commit: a number of generations, and the commits where it ends.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{WorkspaceError, cat_file::Objects, git::unexpected_output};

/// Commits, and where their history ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// All commits.
    pub(crate) commits: BTreeSet<String>,
    /// The commits with a parent that is not in `commits`.
    pub(crate) shallow: BTreeSet<String>,
}

/// Commits and a number of generations of ancestors, each with its parents.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    tips: Vec<String>,
    parents: HashMap<String, Vec<String>>,
    /// Commits whose parents are missing in this repository.
    boundary: HashSet<String>,
}

impl Lineage {
    /// Reads the commits `tips` and their ancestors, `depth` generations in all. Parents of the commits `boundary` are
    /// missing.
    pub(crate) fn of(
        objects: &mut Objects,
        tips: Vec<String>,
        depth: u32,
        boundary: Vec<String>,
    ) -> Result<Self, WorkspaceError> {
        let mut lineage =
            Self { tips: tips.clone(), parents: HashMap::new(), boundary: boundary.into_iter().collect() };
        let mut generation = tips;
        for _ in 0..depth {
            let mut next = Vec::new();
            for id in generation {
                if lineage.parents.contains_key(&id) {
                    continue;
                }
                let header = objects.header(&id)?;
                if header.kind != "commit" {
                    return Err(unexpected_output(
                        "cat-file",
                        format!("{id} is a {}, not a commit", header.kind),
                    )
                    .into());
                }
                let parents = parents(&objects.bytes(&header)?);
                if !lineage.boundary.contains(&id) {
                    next.extend(parents.iter().cloned());
                }
                lineage.parents.insert(id, parents);
            }
            generation = next;
        }
        Ok(lineage)
    }

    /// Returns all commits except those in `known`, and those reachable only through them.
    pub(crate) fn without(&self, known: &BTreeSet<String>) -> History {
        let mut history = History::default();
        let mut pending: Vec<&String> = self.tips.iter().collect();
        while let Some(id) = pending.pop() {
            let Some(parents) = self.parents.get(id).filter(|_| !known.contains(id)) else { continue };
            if history.commits.insert(id.clone()) && !self.boundary.contains(id) {
                pending.extend(parents);
            }
        }
        let is_present = |id: &String| history.commits.contains(id) || known.contains(id);
        let all = history.commits.iter().filter_map(|id| Some((id, self.parents.get(id)?)));
        let shallow = all.filter(|(id, parents)| {
            !parents.is_empty() && (self.boundary.contains(*id) || !parents.iter().all(is_present))
        });
        history.shallow = shallow.map(|(id, _)| id.clone()).collect();
        history
    }
}

/// Returns the parents that a commit names.
fn parents(commit: &[u8]) -> Vec<String> {
    let lines = commit.split(|byte| *byte == b'\n');
    let header = lines.take_while(|line| !line.is_empty());
    header
        .filter_map(|line| line.strip_prefix(b"parent "))
        .map(|id| String::from_utf8_lossy(id).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn commits_reachable_only_through_known_ones_are_left_out() {
        // e merges d and b. d, c, b and a are in a row.
        let row = [("e", &["d", "b"][..]), ("d", &["c"]), ("c", &["b"]), ("b", &["a"])];
        let parents = row.map(|(id, parents)| (id.to_owned(), set(parents).into_iter().collect()));
        let lineage =
            Lineage { tips: vec!["e".to_owned()], parents: parents.into(), boundary: HashSet::new() };
        let of = |known: &[&str]| lineage.without(&set(known));
        assert_eq!(of(&[]), History { commits: set(&["b", "c", "d", "e"]), shallow: set(&["b"]) });
        assert_eq!(of(&["c", "b"]), History { commits: set(&["d", "e"]), shallow: set(&[]) });
        assert_eq!(of(&["d"]), History { commits: set(&["b", "e"]), shallow: set(&["b"]) });
        assert_eq!(of(&["e"]), History::default());
        let boundary = Lineage { boundary: ["d".to_owned()].into(), ..lineage };
        assert_eq!(
            boundary.without(&set(&[])),
            History { commits: set(&["b", "d", "e"]), shallow: set(&["b", "d"]) }
        );
    }
}
