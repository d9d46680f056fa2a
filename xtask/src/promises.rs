//! The promises of the security model, each with the names of its tests.

use std::{fs, path::Path};

/// Appends the source files below `dir`.
fn read_sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn each_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = String::new();
    ["crates", "tests"].iter().for_each(|dir| read_sources(&root.join(dir), &mut sources));
    let page = fs::read_to_string(root.join("docs/src/security.md")).unwrap();
    let mut promises = 0;
    for row in page.split("| promise | test |\n").skip(1).flat_map(|table| table.lines().skip(1)) {
        let Some(cells) = row.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) else { continue };
        let Some((promise, tests)) = cells.rsplit_once(" | ") else { panic!("{row}") };
        promises += 1;
        for test in tests.split(", ") {
            let name = test.trim_matches('`');
            let is_test =
                [format!("fn {name}("), format!("::{name}\""), format!("::{name}::"), format!("\"{name}\"")];
            assert!(is_test.iter().any(|text| sources.contains(text)), "{promise}: there is no test {name}");
        }
    }
    assert!(promises > 20, "{promises} promises");
}
