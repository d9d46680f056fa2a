//! The messages of errors, read from the source code and compared with the manual's page.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::TokenTree;
use syn::{
    Attribute, Block, Expr, ExprCall, ItemEnum, ItemFn, ItemImpl, ItemMod, ItemStruct, Lit, Local, Pat, Stmt,
    Type,
    visit::{self, Visit},
};

/// Messages by the kind of their error; the rest by the type of the error.
#[derive(Default)]
struct Messages {
    /// The name is empty if the kind depends on the cause.
    by_kind: BTreeMap<String, BTreeSet<String>>,
    by_type: BTreeMap<String, BTreeSet<String>>,
    /// Messages of the variables in scope.
    variables: Vec<(String, String)>,
    /// The crate whose sources are read.
    member: String,
    /// Whether `Self` is `ApiError`.
    in_api_error: bool,
}

impl Messages {
    /// Reads the source files below `dir`, except those of tests.
    fn read(&mut self, dir: &Path) {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with("tests") || name == "manual" {
                continue;
            }
            if path.is_dir() {
                self.read(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                self.visit_file(&file);
            }
        }
    }

    /// Returns the message of an expression: a text, a format, or a variable with one.
    fn message(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            Expr::Macro(call) if call.mac.path.is_ident("format") => first_text(call.mac.tokens.clone()),
            Expr::MethodCall(call) => self.message(&call.receiver),
            Expr::Reference(reference) => self.message(&reference.expr),
            Expr::Path(path) => {
                let name = path.path.get_ident()?.to_string();
                let variable = self.variables.iter().rev().find(|(variable, _)| *variable == name)?;
                Some(variable.1.clone())
            }
            _ => None,
        }
    }

    fn add_attribute(&mut self, owner: &str, attributes: &[Attribute]) {
        let attributes = attributes.iter().filter(|attribute| attribute.path().is_ident("error"));
        for list in attributes.filter_map(|attribute| attribute.meta.require_list().ok()) {
            if let Some(text) = first_text(list.tokens.clone()) {
                let owner = format!("{} {owner}", self.member);
                self.by_type.entry(owner).or_default().insert(text);
            }
        }
    }
}

/// Returns the text that tokens begin with.
fn first_text(tokens: proc_macro2::TokenStream) -> Option<String> {
    match tokens.into_iter().next()? {
        TokenTree::Literal(literal) => match Lit::new(literal) {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = || attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
        attribute.path().is_ident("test") || attribute.path().is_ident("cfg") && is_cfg_test()
    })
}

impl<'ast> Visit<'ast> for Messages {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.in_api_error = matches!(&*item.self_ty, Type::Path(path) if path.path.is_ident("ApiError"));
        visit::visit_item_impl(self, item);
        self.in_api_error = false;
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        for variant in &item.variants {
            self.add_attribute(&item.ident.to_string(), &variant.attrs);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.add_attribute(&item.ident.to_string(), &item.attrs);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let in_scope = self.variables.len();
        visit::visit_block(self, block);
        self.variables.truncate(in_scope);
    }

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        visit::visit_stmt(self, stmt);
        if let Stmt::Local(Local { pat: Pat::Ident(name), init: Some(init), .. }) = stmt {
            let message = self.message(&init.expr);
            self.variables.extend(message.map(|message| (name.ident.to_string(), message)));
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        visit::visit_expr_call(self, call);
        let Expr::Path(function) = &*call.func else { return };
        let names: Vec<_> = function.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [.., "ApiError", "new"] => {}
            ["Self", "new"] if self.in_api_error => {}
            _ => return,
        }
        let [kind, message] = &*call.args.iter().collect::<Vec<_>>() else { return };
        let Some(message) = self.message(message) else { return };
        let kind = match kind {
            Expr::Path(kind) => kind.path.segments.last().map(|name| name.ident.to_string()),
            _ => None,
        };
        let kind = kind.filter(|name| name.starts_with(char::is_uppercase));
        self.by_kind.entry(kind.unwrap_or_default()).or_default().insert(message);
    }
}

/// Converts a kind's name to the form that the API uses.
fn snake_case(name: &str) -> String {
    let mut result = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !result.is_empty() {
            result.push('_');
        }
        result.extend(c.to_lowercase());
    }
    result
}

fn page(messages: &Messages) -> String {
    let mut page = "# Messages\n\n<!-- Generated from the code by `UPDATE_CONTRACTS=1 cargo test -p xtask messages`. -->\n\n\
         The messages of errors; braces stand for a value. [Errors](errors.md) explains the kinds. Messages may \
         change with each version:\nprograms should rely on kinds.\n"
        .to_owned();
    let by_kind = messages.by_kind.iter().map(|(kind, texts)| match kind.as_str() {
        "" => ("Kind depends on the cause".to_owned(), texts),
        kind => (format!("Kind `{}`", snake_case(kind)), texts),
    });
    let by_type =
        messages.by_type.iter().map(|(owner, texts)| (format!("Part of other messages: `{owner}`"), texts));
    for (title, texts) in by_kind.chain(by_type) {
        page += &format!("\n## {title}\n\n");
        for text in texts {
            let text = text.replace('\n', " ");
            // A text with a backtick is between two of them and spaces (CommonMark).
            let (open, close) = if text.contains('`') { ("`` ", " ``") } else { ("`", "`") };
            page += &format!("- {open}{text}{close}\n");
        }
    }
    page
}

#[test]
fn the_page_lists_all_messages_of_errors() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut members: Vec<_> = fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path()).collect();
    members.sort();
    let mut messages = Messages::default();
    for member in members.iter().filter(|member| member.join("src").is_dir()) {
        messages.member = member.file_name().unwrap().to_string_lossy().into_owned();
        messages.read(&member.join("src"));
    }
    banger_contract::check("docs/src/reference/messages.md", &page(&messages));
}

#[test]
fn messages_are_found_in_errors_and_calls() {
    let source = r#"
        #[derive(Error)]
        enum Broken { #[error("cannot open {}: {source}", path.display())] Open }
        fn f() {
            let message = format!("{name} is not a disk");
            if a { return Err(ApiError::new(ErrorKind::NotFound, message)); }
            g(|| ApiError::new(ErrorKind::Io, "lost").into());
            ApiError::new(kind, "gone")
        }
        impl ApiError { fn g() { Self::new(ErrorKind::Busy, "torn") } }
        impl Other { fn g() { Self::new(ErrorKind::Io, "other") } }
        #[cfg(test)]
        mod tests { fn f() { ApiError::new(ErrorKind::Io, "test"); } }
    "#;
    let mut messages = Messages { member: "disks".to_owned(), ..Messages::default() };
    messages.visit_file(&syn::parse_file(source).unwrap());
    let set = |text: &str| BTreeSet::from([text.to_owned()]);
    let by_kind = [("", "gone"), ("Busy", "torn"), ("Io", "lost"), ("NotFound", "{name} is not a disk")];
    assert_eq!(messages.by_kind, by_kind.map(|(kind, text)| (kind.to_owned(), set(text))).into());
    assert_eq!(messages.by_type, [("disks Broken".to_owned(), set("cannot open {}: {source}"))].into());
}
