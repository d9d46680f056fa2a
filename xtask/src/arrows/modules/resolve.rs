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
    let mut arrows: BTreeMap<(Id, Id), Arrow> = BTreeMap::new();
    for (id, module) in tree.modules.iter().enumerate() {
        let from = tree.file_of(id);
        let imports = module.imports.iter().filter(|import| !import.reexport).map(|import| &import.used);
        for used in imports.chain(&module.uses) {
            for (to, item) in resolver.definitions(id, &used.path) {
                if to != from {
                    arrows.entry((from, to)).or_insert(Arrow { from, to, line: used.line, item });
                }
            }
        }
    }
    arrows.into_values().collect()
}

/// A module or an item that a name refers to. A name can be a module and a function at once.
#[derive(Debug, Clone)]
enum Resolution {
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
                for (resolution, _) in resolver.resolve(id, self_type, &mut Vec::new()) {
                    if let Resolution::Item(owner, name) = resolution {
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
        let mut definitions = Vec::new();
        for (resolution, rest) in self.resolve(from, path, &mut Vec::new()) {
            let Resolution::Item(module, name) = resolution else { continue };
            let item = format!("{}::{name}", self.tree.modules[module].path);
            let item = item.trim_start_matches("::").to_owned();
            let method = path.get(path.len() - rest);
            let key = method.map(|method| (module, name, method.clone()));
            for file in key.and_then(|key| self.methods.get(&key)).into_iter().flatten() {
                definitions.push((*file, format!("{item}::{}", path[path.len() - rest])));
            }
            definitions.push((self.tree.file_of(module), item));
        }
        definitions
    }

    /// Resolves a path in a module. Each result has the number of remaining segments, which are within an item.
    fn resolve(
        &self,
        from: Id,
        path: &[String],
        pending: &mut Vec<(Id, String)>,
    ) -> Vec<(Resolution, usize)> {
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
            return vec![(Resolution::Module(module), 0)];
        };
        let mut resolutions = self.resolve_name(module, first, pending);
        if resolutions.is_empty() && explicit {
            // A macro in that module defines it.
            resolutions.push(Resolution::Item(module, first.clone()));
        }
        let mut resolved = Vec::new();
        while let Some((next, others)) = rest.split_first() {
            // A function can have the same name as a module, and contains no items.
            if resolutions.iter().any(|resolution| matches!(resolution, Resolution::Module(_))) {
                resolutions.retain(|resolution| matches!(resolution, Resolution::Module(_)));
            }
            let mut next_resolutions = Vec::new();
            for resolution in resolutions {
                match resolution {
                    Resolution::Module(module) => {
                        let children = self.resolve_name(module, next, pending);
                        if children.is_empty() {
                            next_resolutions.push(Resolution::Item(module, next.clone()));
                        }
                        next_resolutions.extend(children);
                    }
                    item @ Resolution::Item(..) => resolved.push((item, rest.len())),
                }
            }
            resolutions = next_resolutions;
            rest = others;
        }
        resolved.extend(resolutions.into_iter().map(|resolution| (resolution, 0)));
        resolved
    }

    /// Resolves a name in a module: defined there, imported, or from a glob import.
    fn resolve_name(&self, id: Id, name: &str, pending: &mut Vec<(Id, String)>) -> Vec<Resolution> {
        let module: &Module = &self.tree.modules[id];
        let mut resolutions: Vec<Resolution> =
            module.children.get(name).map(|child| Resolution::Module(*child)).into_iter().collect();
        if module.items.contains(name) {
            resolutions.push(Resolution::Item(id, name.to_owned()));
        }
        let key = (id, name.to_owned());
        if pending.contains(&key) {
            return resolutions;
        }
        pending.push(key);
        for import in module.imports.iter().filter(|import| import.name.as_deref() == Some(name)) {
            let resolved = self.resolve(id, &import.used.path, pending);
            resolutions.extend(resolved.into_iter().map(|(resolution, _)| resolution));
        }
        if resolutions.is_empty() {
            for glob in module.imports.iter().filter(|import| import.name.is_none()) {
                for (resolution, _) in self.resolve(id, &glob.used.path, pending) {
                    if let Resolution::Module(module) = resolution {
                        resolutions.extend(self.resolve_name(module, name, pending));
                    }
                }
            }
        }
        pending.pop();
        resolutions
    }
}
