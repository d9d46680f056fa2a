//! Generated files that are checked in, because users and other programs rely on what they say.
//!
//! Tests compare each with what the code generates. `UPDATE_CONTRACTS=1` lets them write the files instead.

use std::{env, fs, path::Path};

use similar::TextDiff;

/// Environment variable with which the files are written.
const UPDATE: &str = "UPDATE_CONTRACTS";

/// Checks that the file at `path`, relative to the project's root, is `generated`.
///
/// # Panics
/// Panics with the file's name and a unified diff if it is not, and if the file cannot be written.
#[track_caller]
pub fn check(path: &str, generated: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if env::var_os(UPDATE).is_some() {
        fs::write(&file, generated).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
        return;
    }
    // A missing file differs in every line.
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    if let Some(diff) = difference(path, &checked_in, generated) {
        panic!("{path} is not what the code generates; {UPDATE}=1 cargo test writes it:\n{diff}");
    }
}

fn difference(path: &str, checked_in: &str, generated: &str) -> Option<String> {
    let diff = TextDiff::from_lines(checked_in, generated);
    let text = diff.unified_diff().header(path, "generated").to_string();
    (checked_in != generated).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_file_and_the_line() {
        assert_eq!(difference("a.md", "same\n", "same\n"), None);
        let text = difference("a.md", "one\ntwo\n", "one\n2\n").unwrap();
        assert_eq!(text, "--- a.md\n+++ generated\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n");
    }
}
