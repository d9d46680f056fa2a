//! Finds cycles among a module and its children.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    resolve::Arrow,
    tree::{Id, Tree},
};

/// A cycle: modules with the same parent that use each other, directly or through others.
#[derive(Debug)]
pub(super) struct Cycle<'a> {
    /// Every module of the cycle; the parent itself can be one.
    pub(super) members: BTreeSet<Id>,
    /// A shortest path around the cycle.
    pub(super) path: Vec<&'a Arrow>,
}

type Graph<'a> = BTreeMap<Id, BTreeMap<Id, &'a Arrow>>;

/// Returns the cycles of a tree, those of outer modules first.
pub(super) fn cycles<'a>(tree: &Tree, arrows: &'a [Arrow]) -> Vec<Cycle<'a>> {
    let mut graphs: BTreeMap<Id, Graph<'a>> = BTreeMap::new();
    for arrow in arrows {
        let (parent, from, to) = siblings(tree, arrow.from, arrow.to);
        graphs.entry(parent).or_default().entry(from).or_default().entry(to).or_insert(arrow);
    }
    graphs.values().flat_map(cycles_of).collect()
}

/// Returns the closest common module of two files, and which of it and its children contains each file.
fn siblings(tree: &Tree, from: Id, to: Id) -> (Id, Id, Id) {
    let (from, to) = (ancestry(tree, from), ancestry(tree, to));
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let parent = from[common - 1];
    (parent, *from.get(common).unwrap_or(&parent), *to.get(common).unwrap_or(&parent))
}

/// Returns a file's modules, from the root down.
fn ancestry(tree: &Tree, id: Id) -> Vec<Id> {
    let mut modules: Vec<Id> =
        std::iter::successors(Some(id), |id| tree.modules[*id].parent.map(|parent| tree.file_of(parent)))
            .collect();
    modules.reverse();
    modules
}

fn cycles_of<'a>(graph: &Graph<'a>) -> Vec<Cycle<'a>> {
    let reached: BTreeMap<Id, BTreeSet<Id>> = graph.keys().map(|id| (*id, reachable(graph, *id))).collect();
    let reaches = |from: Id, to: Id| reached.get(&from).is_some_and(|reached| reached.contains(&to));
    let mut cycles: Vec<Cycle<'a>> = Vec::new();
    for &id in graph.keys() {
        if !reaches(id, id) || cycles.iter().any(|cycle| cycle.members.contains(&id)) {
            continue;
        }
        let members: BTreeSet<Id> =
            graph.keys().copied().filter(|other| reaches(id, *other) && reaches(*other, id)).collect();
        let path = members.iter().map(|id| shortest_path_to_itself(graph, *id)).min_by_key(Vec::len);
        cycles.push(Cycle { members, path: path.unwrap_or_default() });
    }
    cycles
}

/// Returns the modules that a module uses, directly or through others.
fn reachable(graph: &Graph<'_>, from: Id) -> BTreeSet<Id> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(id) = next.pop() {
        let used = graph.get(&id).into_iter().flat_map(BTreeMap::keys);
        next.extend(used.filter(|used| reached.insert(**used)));
    }
    reached
}

/// Returns a shortest path from a module back to itself.
fn shortest_path_to_itself<'a>(graph: &Graph<'a>, start: Id) -> Vec<&'a Arrow> {
    let mut paths: BTreeMap<Id, Vec<&'a Arrow>> = BTreeMap::new();
    let mut next = VecDeque::from([(start, Vec::new())]);
    while let Some((id, path)) = next.pop_front() {
        for (&used, &arrow) in graph.get(&id).into_iter().flatten() {
            if paths.contains_key(&used) {
                continue;
            }
            let longer: Vec<_> = path.iter().copied().chain([arrow]).collect();
            if used == start {
                return longer;
            }
            paths.insert(used, longer.clone());
            next.push_back((used, longer));
        }
    }
    Vec::new()
}
