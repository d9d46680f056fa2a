//! Files that are checked in because users and other programs rely on them: generated files, and the manual.
//!
//! Tests compare each generated file with the generated content. With `UPDATE_CONTRACTS=1`, they write the files
//! instead. Other tests use the code blocks of the manual.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use similar::TextDiff;

/// Environment variable that makes the tests write the files.
const UPDATE: &str = "UPDATE_CONTRACTS";

/// Checks that the file at `path`, relative to the project's root, equals `generated`.
///
/// # Panics
/// Panics with the file's name and a unified diff if it is not, and if the file cannot be written.
#[track_caller]
pub fn check(path: &str, generated: &str) {
    let file = in_project(path);
    if env::var_os(UPDATE).is_some() {
        fs::write(&file, generated).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
        return;
    }
    // A missing file differs in every line.
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    if let Some(diff) = difference(path, &checked_in, generated) {
        panic!("{path} is out of date; `{UPDATE}=1 cargo test` updates it:\n{diff}");
    }
}

fn difference(path: &str, checked_in: &str, generated: &str) -> Option<String> {
    let diff = TextDiff::from_lines(checked_in, generated);
    let text = diff.unified_diff().header(path, "generated").to_string();
    (checked_in != generated).then_some(text)
}

/// A fenced code block of a Markdown file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeBlock {
    /// The language after the opening fence: `sh`, `toml`.
    pub language: String,
    /// The lines between the fences.
    pub lines: Vec<String>,
}

/// Returns the code blocks of the Markdown file at `path`, relative to the project's root.
///
/// # Panics
/// Panics if the file cannot be read.
#[track_caller]
pub fn code_blocks(path: &str) -> Vec<CodeBlock> {
    let text =
        fs::read_to_string(in_project(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    parse_blocks(&text)
}

/// Returns the Markdown files that a user reads, relative to the project's root: the README and the manual.
///
/// # Panics
/// Panics if the manual's directory cannot be read.
pub fn manual_pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    let mut dirs = vec!["docs/src".to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries =
            fs::read_dir(in_project(&dir)).unwrap_or_else(|error| panic!("cannot read {dir}: {error}"));
        for entry in entries.map_while(Result::ok) {
            let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                dirs.push(path);
            } else if path.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn parse_blocks(text: &str) -> Vec<CodeBlock> {
    let mut blocks = Vec::new();
    let mut open: Option<CodeBlock> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                open = Some(CodeBlock { language: language.to_owned(), lines: Vec::new() })
            }
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_blocks_have_a_language_and_lines() {
        let block = |language: &str, lines: &[&str]| CodeBlock {
            language: language.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            parse_blocks("a\n```sh\nls\n\npwd\n```\nb\n```\nc\n```\n"),
            [block("sh", &["ls", "", "pwd"]), block("", &["c"])]
        );
        assert!(
            manual_pages()
                .iter()
                .all(|page| code_blocks(page).iter().all(|block| !block.language.is_empty()))
        );
    }

    #[test]
    fn a_difference_names_the_file_and_the_line() {
        assert_eq!(difference("a.md", "same\n", "same\n"), None);
        let text = difference("a.md", "one\ntwo\n", "one\n2\n").unwrap();
        assert_eq!(text, "--- a.md\n+++ generated\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n");
    }
}
