//! Fuzz targets: functions that parse hostile bytes and panic when an invariant does not hold.
//!
//! `corpus/TARGET/` has the inputs of each target. The tests replay them; `cargo xtask fuzz` mutates them with
//! libFuzzer.

#![allow(clippy::expect_used)] // a panic reports a failure

mod catalog;
mod client;
mod config;
mod credentials;
mod dns;
mod ext4;
mod files;
mod frames;
mod guest;
mod index;
mod layers;
mod manifest;
mod package;
mod reference;
mod requests;
mod signed;
mod ssh;
mod workspace;

use std::{env, fs, process::Command};

use banger_hostile::{Sandbox, environment};

/// A function that takes an input and panics when an invariant does not hold.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("catalog", catalog::run),
    ("client", client::run),
    ("config", config::run),
    ("credentials", credentials::run),
    ("dns", dns::run),
    ("ext4", ext4::run),
    ("files", files::run),
    ("frames", frames::run),
    ("guest", guest::run),
    ("index", index::run),
    ("layers", layers::run),
    ("manifest", manifest::run),
    ("package", package::run),
    ("reference", reference::run),
    ("requests", requests::run),
    ("signed", signed::run),
    ("ssh", ssh::run),
    ("workspace", workspace::run),
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(target, _)| *target == name).map(|(_, run)| *run)
}

/// Runs this program again with an environment in which its targets cannot reach the user's files: `run` gets the
/// command. Returns `None` if this process already has such an environment.
pub fn run_in_sandbox<T>(run: impl FnOnce(&mut Command) -> T) -> Option<T> {
    if Sandbox::is_of_this_process() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("sandbox");
    fs::create_dir_all(root.join("tmp")).expect("a directory");
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    Some(run(command.envs(environment(&root))))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{TARGETS, run_in_sandbox};

    #[test]
    fn every_target_accepts_its_corpus() {
        let again = ["--exact", "tests::every_target_accepts_its_corpus", "--nocapture"];
        match run_in_sandbox(|command| command.args(again).output().unwrap()) {
            Some(output) => {
                let printed = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&printed));
            }
            None => replay(),
        }
    }

    fn replay() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, run) in TARGETS {
            let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(Result::unwrap).collect();
            assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
            for input in inputs {
                // The last line of the output names the failing input.
                println!("{}", input.path().display());
                run(&fs::read(input.path()).unwrap());
            }
        }
        assert_eq!(fs::read_dir(corpus).unwrap().count(), TARGETS.len(), "a corpus has no target");
    }
}
