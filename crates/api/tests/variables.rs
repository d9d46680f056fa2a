//! Checks that programs read only declared environment variables.

use std::{collections::BTreeSet, fs, io, path::Path};

/// Variables that only tests and their builds read, and the mark of a VM's processes, which users do not set.
const INTERNAL_VARIABLES: &[&str] =
    &["BANGER_FAIL_POINT", "BANGER_FAIL_POINT_RECORD", "BANGER_TEST_IN_OWN_PROCESS", "BANGER_PROCESS"];

/// Collects the words that begin with `BANGER_` from all sources in a directory.
fn collect_variables(dir: &Path, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_variables(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let all = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
            let ours = all.filter(|word| word.strip_prefix("BANGER_").is_some_and(|name| !name.is_empty()));
            names.extend(ours.map(str::to_owned));
        }
    }
    Ok(())
}

#[test]
fn every_variable_in_the_sources_is_declared() -> io::Result<()> {
    let declared: BTreeSet<_> =
        banger_api::config::variables().iter().map(|variable| variable.name).collect();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))? {
        collect_variables(&entry?.path().join("src"), &mut found)?;
    }
    assert!(found.len() >= declared.len(), "the sources have moved");
    found.retain(|name| !declared.contains(name.as_str()) && !INTERNAL_VARIABLES.contains(&name.as_str()));
    assert_eq!(found, BTreeSet::new());
    Ok(())
}
