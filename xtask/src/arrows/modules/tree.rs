//! A crate's modules, read from their source files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, Meta, Type, UseTree, Visibility,
    ext::IdentExt as _,
    visit::{self, Visit},
};

/// A module's index in its tree.
pub(super) type Id = usize;

/// The root module's index.
pub(super) const ROOT: Id = 0;

/// The modules of one target, without tests.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

/// A module: a file, or a block within one.
#[derive(Debug)]
pub(super) struct Module {
    /// The path from the crate's root, such as `vm::start`; empty for the root.
    pub(super) path: String,
    pub(super) parent: Option<Id>,
    pub(super) file: PathBuf,
    /// Whether the module is a block in its parent's file.
    inline: bool,
    pub(super) children: BTreeMap<String, Id>,
    /// Names of the items that it defines.
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    pub(super) uses: Vec<Use>,
    /// Methods of inherent impl blocks: the type as written, and the method's name.
    pub(super) methods: Vec<(Vec<String>, String)>,
}

/// One imported name of a `use`.
#[derive(Debug)]
pub(super) struct Import {
    /// The name in this module, or `None` for a glob import.
    pub(super) name: Option<String>,
    pub(super) used: Use,
    pub(super) reexport: bool,
}

/// A path as written in a module, and its line.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

impl Tree {
    /// Reads a target's root file and every module that it declares.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self { modules: Vec::new() };
        tree.add("", None, root, false);
        let dir = root.parent().context("a source file without a directory")?;
        tree.read_file(ROOT, dir)?;
        Ok(tree)
    }

    /// Returns the module whose file contains a module.
    pub(super) fn file_of(&self, mut id: Id) -> Id {
        while let (true, Some(parent)) = (self.modules[id].inline, self.modules[id].parent) {
            id = parent;
        }
        id
    }

    fn add(&mut self, name: &str, parent: Option<Id>, file: &Path, inline: bool) -> Id {
        let path = match parent.map(|parent| self.modules[parent].path.as_str()) {
            None | Some("") => name.to_owned(),
            Some(parent_path) => format!("{parent_path}::{name}"),
        };
        let id = self.modules.len();
        self.modules.push(Module {
            path,
            parent,
            file: file.to_path_buf(),
            inline,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: Vec::new(),
            uses: Vec::new(),
            methods: Vec::new(),
        });
        if let Some(parent) = parent {
            self.modules[parent].children.insert(name.to_owned(), id);
        }
        id
    }

    /// Reads a module's file; the directory has the files of its children.
    fn read_file(&mut self, id: Id, dir: &Path) -> Result<()> {
        let path = self.modules[id].file.clone();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        self.read_items(id, dir, &file.items)
    }

    fn read_items(&mut self, id: Id, dir: &Path, items: &[Item]) -> Result<()> {
        for item in items {
            let Item::Mod(module) = item else {
                Reader { module: &mut self.modules[id], self_type: None }.visit_item(item);
                continue;
            };
            if is_test_only(&module.attrs) {
                continue;
            }
            let name = module.ident.unraw().to_string();
            let nested = dir.join(&name);
            if let Some((_, items)) = &module.content {
                let file = self.modules[id].file.clone();
                let child = self.add(&name, Some(id), &file, true);
                self.read_items(child, &nested, items)?;
            } else {
                let sibling = dir.join(format!("{name}.rs"));
                let file = if sibling.is_file() { sibling } else { nested.join("mod.rs") };
                ensure!(file.is_file(), "module {name} has no file in {}", dir.display());
                let child = self.add(&name, Some(id), &file, false);
                self.read_file(child, &nested)?;
            }
        }
        Ok(())
    }
}

/// Collects the items, imports and uses of a module.
struct Reader<'a> {
    module: &'a mut Module,
    /// The type of the enclosing impl block, as written.
    self_type: Option<Vec<String>>,
}

impl Reader<'_> {
    fn add_use(&mut self, path: Vec<String>, span: Span) {
        let used = Use { path: self.without_self(path), line: span.start().line };
        self.module.uses.push(used);
    }

    /// Replaces `Self` in a path with the impl block's type.
    fn without_self(&self, path: Vec<String>) -> Vec<String> {
        match (&self.self_type, path.split_first()) {
            (Some(self_type), Some((first, rest))) if first == "Self" => {
                self_type.iter().chain(rest).cloned().collect()
            }
            _ => path,
        }
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String], reexport: bool) {
        let mut add = |ident: &Ident, name: Option<&Ident>, span: Span| {
            let mut path = prefix.to_vec();
            if ident != "self" || prefix.is_empty() {
                path.push(ident.unraw().to_string());
            }
            let name = name.map(|name| name.unraw().to_string()).filter(|name| name != "self");
            let name = name.or_else(|| path.last().cloned());
            let used = Use { path, line: span.start().line };
            self.module.imports.push(Import { name, used, reexport });
        };
        match tree {
            UseTree::Name(leaf) => add(&leaf.ident, Some(&leaf.ident), leaf.ident.span()),
            UseTree::Rename(leaf) => add(&leaf.ident, Some(&leaf.rename), leaf.ident.span()),
            UseTree::Glob(leaf) => {
                let used = Use { path: prefix.to_vec(), line: leaf.star_token.spans[0].start().line };
                self.module.imports.push(Import { name: None, used, reexport });
            }
            UseTree::Path(path) => {
                let mut prefix = prefix.to_vec();
                prefix.push(path.ident.unraw().to_string());
                self.import(&path.tree, &prefix, reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, reexport);
                }
            }
        }
    }

    /// Collects paths and calls of `self` methods from tokens that syn does not parse: arguments of macros and
    /// attributes.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(first) if at == 0 || !is(at - 1, '.') => {
                    let mut path = vec![first.unraw().to_string()];
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (is(at + 1, ':'), is(at + 2, ':'), tokens.get(at + 3))
                    {
                        path.push(next.unraw().to_string());
                        at += 3;
                    }
                    if let (true, true, Some(TokenTree::Ident(method))) =
                        (first == "self", is(at + 1, '.'), tokens.get(at + 2))
                    {
                        path = vec!["Self".to_owned(), method.unraw().to_string()];
                    }
                    self.add_use(path, first.span());
                }
                _ => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test_only(attributes(item)) {
            return;
        }
        if let Item::Use(item) = item {
            if item.leading_colon.is_none() {
                self.import(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
            }
            return;
        }
        self.module.items.extend(defined_name(item).map(|name| name.unraw().to_string()));
        visit::visit_item(self, item);
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        let outer_type = self.self_type.take();
        if let Type::Path(named) = &*block.self_ty {
            let self_type = segments(&named.path);
            if block.trait_.is_none() {
                let methods = block.items.iter().filter_map(|item| match item {
                    syn::ImplItem::Fn(method) if !is_test_only(&method.attrs) => Some(&method.sig.ident),
                    _ => None,
                });
                let methods = methods.map(|name| (self_type.clone(), name.unraw().to_string()));
                self.module.methods.extend(methods);
            }
            self.self_type = Some(self_type);
        }
        visit::visit_item_impl(self, block);
        self.self_type = outer_type;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test_only(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if !is_test_only(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test_only(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            self.add_use(segments(path), first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if matches!(&*call.receiver, syn::Expr::Path(receiver) if receiver.path.is_ident("self")) {
            self.add_use(vec!["Self".to_owned(), call.method.unraw().to_string()], call.method.span());
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect()
}

/// Returns whether `#[test]`, `#[cfg(test)]` or `#[cfg(all(test, …))]` excludes an item from the program.
fn is_test_only(attributes: &[Attribute]) -> bool {
    fn needs_test(condition: &Meta) -> bool {
        let Meta::List(list) = condition else { return condition.path().is_ident("test") };
        let all = syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated;
        list.path.is_ident("all")
            && list.parse_args_with(all).is_ok_and(|conditions| conditions.iter().any(needs_test))
    }
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => {
            list.parse_args().is_ok_and(|condition: Meta| needs_test(&condition))
        }
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the name that an item defines.
fn defined_name(item: &Item) -> Option<&Ident> {
    match item {
        Item::Const(item) => Some(&item.ident),
        Item::Enum(item) => Some(&item.ident),
        Item::Fn(item) => Some(&item.sig.ident),
        Item::Macro(item) => item.ident.as_ref(),
        Item::Static(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}
