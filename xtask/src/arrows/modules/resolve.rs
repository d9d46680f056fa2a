//! Resolves paths to the files that define the items.

use std::collections::BTreeMap;

use super::tree::{Id, Module, ROOT, Tree};

/// A use of an item by a file that does not define it.
#[derive(Debug)]
pub(super) struct Arrow {
    pub(super) from: Id,
    pub(super) to: Id,
    pub(super) line: usize,
    /// The item's path from the crate's root.
    pub(super) item: String,
}

/// Returns the uses between a tree's files, one for each pair of files.
pub(super) fn arrows(tree: &Tree) -> Vec<Arrow> {
    let resolver = Resolver::new(tree);
    let mut found: BTreeMap<(Id, Id), Arrow> = BTreeMap::new();
    for (id, module) in tree.modules.iter().enumerate() {
        let from = tree.file_of(id);
        let imports = module.imports.iter().filter(|import| !import.reexport).map(|import| &import.used);
        for used in imports.chain(&module.uses) {
            for (to, item) in resolver.definitions(id, &used.path) {
                if to != from {
                    found.entry((from, to)).or_insert(Arrow { from, to, line: used.line, item });
                }
            }
        }
    }
    found.into_values().collect()
}

/// A module or an item that a name refers to. A name can be a module and a function at once.
#[derive(Debug, Clone)]
enum Meaning {
    Module(Id),
    Item(Id, String),
}

struct Resolver<'a> {
    tree: &'a Tree,
    /// Files with inherent methods of a type, by the type's module, the type's name and the method's name.
    methods: BTreeMap<(Id, String, String), Vec<Id>>,
}

impl<'a> Resolver<'a> {
    fn new(tree: &'a Tree) -> Self {
        let mut resolver = Self { tree, methods: BTreeMap::new() };
        let mut methods: BTreeMap<_, Vec<Id>> = BTreeMap::new();
        for (id, module) in tree.modules.iter().enumerate() {
            for (self_type, method) in &module.methods {
                for (meaning, _) in resolver.meanings(id, self_type, &mut Vec::new()) {
                    if let Meaning::Item(owner, name) = meaning {
                        methods.entry((owner, name, method.clone())).or_default().push(tree.file_of(id));
                    }
                }
            }
        }
        resolver.methods = methods;
        resolver
    }

    /// Returns the files that define what a path refers to, each with the item's full path.
    fn definitions(&self, from: Id, path: &[String]) -> Vec<(Id, String)> {
        let mut found = Vec::new();
        for (meaning, rest) in self.meanings(from, path, &mut Vec::new()) {
            let Meaning::Item(module, name) = meaning else { continue };
            let item = format!("{}::{name}", self.tree.modules[module].path);
            let item = item.trim_start_matches("::").to_owned();
            let method = path.get(path.len() - rest);
            let key = method.map(|method| (module, name, method.clone()));
            for file in key.and_then(|key| self.methods.get(&key)).into_iter().flatten() {
                found.push((*file, format!("{item}::{}", path[path.len() - rest])));
            }
            found.push((self.tree.file_of(module), item));
        }
        found
    }

    /// Resolves a path in a module. Each result has the number of remaining segments, which are within an item.
    fn meanings(&self, from: Id, path: &[String], pending: &mut Vec<(Id, String)>) -> Vec<(Meaning, usize)> {
        let mut module = from;
        let mut rest = path;
        let mut explicit = false;
        while let Some((first, others)) = rest.split_first() {
            match (first.as_str(), self.tree.modules[module].parent) {
                ("crate", _) if !explicit => module = ROOT,
                ("self", _) if !explicit => {}
                ("super", Some(parent)) => module = parent,
                _ => break,
            }
            explicit = true;
            rest = others;
        }
        let Some((first, mut rest)) = rest.split_first() else {
            return vec![(Meaning::Module(module), 0)];
        };
        let mut meanings = self.named(module, first, pending);
        if meanings.is_empty() && explicit {
            // A macro in that module defines it.
            meanings.push(Meaning::Item(module, first.clone()));
        }
        let mut found = Vec::new();
        while let Some((next, others)) = rest.split_first() {
            // A function can have the same name as a module, and contains no items.
            if meanings.iter().any(|meaning| matches!(meaning, Meaning::Module(_))) {
                meanings.retain(|meaning| matches!(meaning, Meaning::Module(_)));
            }
            let mut below = Vec::new();
            for meaning in meanings {
                match meaning {
                    Meaning::Module(module) => {
                        let named = self.named(module, next, pending);
                        if named.is_empty() {
                            below.push(Meaning::Item(module, next.clone()));
                        }
                        below.extend(named);
                    }
                    item @ Meaning::Item(..) => found.push((item, rest.len())),
                }
            }
            meanings = below;
            rest = others;
        }
        found.extend(meanings.into_iter().map(|meaning| (meaning, 0)));
        found
    }

    /// Resolves a name in a module: defined there, imported, or from a glob import.
    fn named(&self, id: Id, name: &str, pending: &mut Vec<(Id, String)>) -> Vec<Meaning> {
        let module: &Module = &self.tree.modules[id];
        let mut found: Vec<Meaning> =
            module.children.get(name).map(|child| Meaning::Module(*child)).into_iter().collect();
        if module.items.contains(name) {
            found.push(Meaning::Item(id, name.to_owned()));
        }
        let key = (id, name.to_owned());
        if pending.contains(&key) {
            return found;
        }
        pending.push(key);
        for import in module.imports.iter().filter(|import| import.name.as_deref() == Some(name)) {
            let meanings = self.meanings(id, &import.used.path, pending);
            found.extend(meanings.into_iter().map(|(meaning, _)| meaning));
        }
        if found.is_empty() {
            for glob in module.imports.iter().filter(|import| import.name.is_none()) {
                for (meaning, _) in self.meanings(id, &glob.used.path, pending) {
                    if let Meaning::Module(module) = meaning {
                        found.extend(self.named(module, name, pending));
                    }
                }
            }
        }
        pending.pop();
        found
    }
}
