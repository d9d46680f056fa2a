//! Checks that the modules of a crate do not use each other in a cycle.
//!
//! A file *uses* another if it names an item that the other file defines: in a `use`, in an expression or type, or in
//! the arguments of a macro or an attribute. The rules:
//!
//! - A re-export counts for the file that defines the item, and is no use itself. So a `mod.rs` that declares its
//!   children and re-exports their items uses nothing.
//! - `T::method`, `Self::method` and `self.method` also use the file of the inherent impl block that has the method.
//!   Other method calls are ignored: they would need the receiver's type.
//! - A block `mod` belongs to its file. If a file does not visibly define a name, its macros are assumed to.
//! - Test code is ignored: `#[cfg(test)]`, `#[test]`, and targets other than a library or a program.
//!
//! Each module is then checked together with its children. A child includes all files below it; the parent is only
//! its own file. They form a *cycle* if one uses another that uses the first, directly or through others. So siblings
//! must not depend on each other, nor a child and its parent: move the shared code below both.

mod cycles;
mod resolve;
mod tree;

use std::path::Path;

use anyhow::Result;

use super::metadata::Package;
use crate::project::Project;
use tree::{Id, ROOT, Tree};

/// Crates that may still have cycles.
const EXEMPT: &[&str] = &[];

/// Describes each cycle among the modules of the packages' libraries and programs.
pub(super) fn cycles(project: &Project, packages: &[Package]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in packages {
        let targets = package.targets.iter();
        let roots = targets.filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin"));
        let mut cycles = Vec::new();
        for root in roots {
            cycles.extend(cycles_of(&root.src_path)?);
        }
        match (EXEMPT.contains(&package.name.as_str()), cycles.is_empty()) {
            (true, false) => {}
            (true, true) => problems.push(format!("{} has no cycle: remove it from EXEMPT", package.name)),
            (false, _) => {
                problems.extend(cycles.into_iter().map(|cycle| format!("{}: {cycle}", package.name)))
            }
        }
    }
    let root = format!("{}/", project.root().display());
    Ok(problems.into_iter().map(|problem| problem.replace(&root, "")).collect())
}

/// Describes each cycle of a target: its modules, and the uses along a shortest path.
fn cycles_of(root: &Path) -> Result<Vec<String>> {
    let tree = Tree::read(root)?;
    let arrows = resolve::arrows(&tree);
    let cycles = cycles::cycles(&tree, &arrows);
    Ok(cycles.iter().map(|cycle| describe(&tree, cycle)).collect())
}

fn describe(tree: &Tree, cycle: &cycles::Cycle<'_>) -> String {
    let name = |id: &Id| match (*id, tree.modules[*id].path.as_str()) {
        (ROOT, _) => "the root",
        (_, path) => path,
    };
    let members: Vec<_> = cycle.members.iter().map(name).collect();
    let mut text = format!("{} form a cycle", members.join(", "));
    for arrow in &cycle.path {
        let file = tree.modules[arrow.from].file.display();
        text.push_str(&format!("\n    {file}:{} uses {}", arrow.line, arrow.item));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns the cycles of a crate with these files, as paths relative to its directory.
    fn cycles_in(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let prefix = format!("{}/", dir.path().display());
        let cycles = cycles_of(&dir.path().join("lib.rs")).unwrap();
        cycles.into_iter().map(|cycle| cycle.replace(&prefix, "")).collect()
    }

    #[test]
    fn siblings_that_use_each_other_form_a_cycle() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::{\n    f as g,\n};\npub fn a() { g() }"),
            ("b.rs", "pub fn f() -> super::c::C { super::c::C }"),
            ("c.rs", "pub struct C;\nfn c() { vec![crate::a::a()]; }"),
        ]);
        let expected =
            "a, b, c form a cycle\n    a.rs:2 uses b::f\n    b.rs:1 uses c::C\n    c.rs:2 uses a::a";
        assert_eq!(cycles, [expected]);
    }

    #[test]
    fn the_shortest_path_around_a_cycle_is_shown() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "use crate::{a::A, b::B}; pub struct C;"),
        ]);
        assert_eq!(cycles, ["a, b, c form a cycle\n    b.rs:1 uses c::C\n    c.rs:1 uses b::B"]);
    }

    #[test]
    fn a_parent_may_use_its_children() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; pub use a::A; fn f(a: A) { a::make(); }"),
            ("a/mod.rs", "mod b; mod c; pub use b::make; pub struct A; fn a() { b::make() }"),
            ("a/b.rs", "use super::c::C; pub fn make() {}"),
            ("a/c.rs", "pub struct C;"),
        ]);
        assert_eq!(cycles, [""; 0]);
    }

    #[test]
    fn a_child_and_its_parent_that_use_each_other_form_a_cycle() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b;\npub struct A(b::B);"),
            ("a/b.rs", "pub struct B;\nfn b(a: super::A) {}"),
        ]);
        assert_eq!(cycles, ["a, a::b form a cycle\n    a.rs:2 uses a::b::B\n    a/b.rs:2 uses a::A"]);
    }

    #[test]
    fn a_module_includes_the_files_below_it() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod one; mod two; pub use one::One; pub use two::two;"),
            ("a/one.rs", "pub struct One;"),
            ("a/two.rs", "use crate::b::B; pub fn two() {}"),
            ("b.rs", "use crate::a::One; pub struct B;"),
        ]);
        assert_eq!(cycles, ["a, b form a cycle\n    a/two.rs:1 uses b::B\n    b.rs:1 uses a::one::One"]);
    }

    #[test]
    fn a_reexport_is_followed_to_the_file_that_defines_the_item() {
        // By name, by glob and under another name; `b` only uses `a::low`.
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b; pub use a::*; pub use b::B as Bee;"),
            ("a.rs", "mod low; pub use low::{Low, Low as Deep}; pub use crate::b::B;"),
            ("a/low.rs", "pub struct Low;"),
            ("b.rs", "use crate::{Low, a::Deep}; pub struct B;"),
        ]);
        assert_eq!(cycles, [""; 0]);
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b; pub use a::*; pub use b::B as Bee;"),
            ("a.rs", "pub struct A(crate::Bee);"),
            ("b.rs", "pub struct B; fn b(a: crate::A) {}"),
        ]);
        assert_eq!(cycles, ["a, b form a cycle\n    a.rs:1 uses b::B\n    b.rs:1 uses a::A"]);
    }

    #[test]
    fn tests_comments_and_strings_are_ignored() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod missing;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            (
                "b.rs",
                r#"
                pub struct B;
                /// Like [`crate::a::A`].
                fn b() { print!("crate::a::A"); }
                #[cfg(test)]
                use crate::a::A;
                #[cfg(all(test, unix))]
                mod tests { use crate::a::A; }
                impl B { #[cfg(test)] fn b() { crate::a::A; } }
                #[test]
                fn test() { crate::a::A; }
                "#,
            ),
        ]);
        assert_eq!(cycles, [""; 0]);
    }

    #[test]
    fn an_inherent_method_belongs_to_the_file_of_its_impl_block() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod host; mod start; mod stop;"),
            ("host.rs", "pub struct Host;"),
            ("start.rs", "use crate::host::Host; impl Host { fn start(&self) { self.stop(); } }"),
            ("stop.rs", "use crate::host::Host; impl Host { fn stop(&self) { Self::start(self) } }"),
        ]);
        let expected = "start, stop form a cycle\n    start.rs:1 uses host::Host::stop\n    stop.rs:1 uses host::Host::start";
        assert_eq!(cycles, [expected]);
    }

    #[test]
    fn a_block_module_belongs_to_its_file() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod a;"),
            ("a.rs", "mod inner { pub fn f() { super::g() } mod file; }\nfn g() { inner::f() }"),
            ("a/inner/file.rs", "fn h() { super::super::g() }"),
        ]);
        assert_eq!(cycles, [""; 0]);
    }

    #[test]
    fn an_external_crate_with_a_modules_name_is_not_the_module() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod serde; mod name;"),
            ("name.rs", "macro_rules! text { () => { pub struct Name; } }\ntext!(); use ::serde::Serialize;"),
            ("serde.rs", "use crate::name::Name; use tokio::serde; pub struct Serialize;"),
        ]);
        assert_eq!(cycles, [""; 0]);
    }

    #[test]
    fn a_function_with_a_modules_name_is_not_the_module() {
        let cycles = cycles_in(&[
            ("lib.rs", "mod plan; mod read; pub use read::plan;"),
            ("plan.rs", "pub struct Plan;"),
            ("read.rs", "mod one; pub fn plan() { one::one() }"),
            ("read/one.rs", "use crate::plan::Plan; pub fn one() {}"),
        ]);
        assert_eq!(cycles, [""; 0]);
    }
}
