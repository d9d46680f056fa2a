//! Fuzz targets: functions that parse hostile bytes and panic when an invariant does not hold.
//!
//! `corpus/TARGET/` has the inputs of each target. The tests replay them; `cargo xtask fuzz` mutates them with
//! libFuzzer.

#![allow(clippy::expect_used)] // a panic reports a failure

mod catalog;
mod config;
mod files;
mod frames;
mod guest;
mod layers;
mod manifest;
mod reference;
mod requests;
mod workspace;

/// A function that takes an input and panics when an invariant does not hold.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("catalog", catalog::run),
    ("config", config::run),
    ("files", files::run),
    ("frames", frames::run),
    ("guest", guest::run),
    ("layers", layers::run),
    ("manifest", manifest::run),
    ("reference", reference::run),
    ("requests", requests::run),
    ("workspace", workspace::run),
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(target, _)| *target == name).map(|(_, run)| *run)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::TARGETS;

    #[test]
    fn every_target_accepts_its_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, run) in TARGETS {
            let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(Result::unwrap).collect();
            assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
            for input in inputs {
                // The last line of a failed test's output names the failing input.
                println!("{}", input.path().display());
                run(&fs::read(input.path()).unwrap());
            }
        }
        assert_eq!(fs::read_dir(corpus).unwrap().count(), TARGETS.len(), "a corpus has no target");
    }
}
