//! Finds words in comments and in Markdown that have a plainer word, so that they stay out.
//!
//! Readers search for the field's own terms. `REPLACEMENTS` lists words that hide them, each with words to use
//! instead; `EXCEPTIONS` lists the places where one of them is right.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, output},
    project::Project,
};

/// Words and phrases in lower case, each with what to write instead.
const REPLACEMENTS: &[(&str, &str)] = &[
    ("amiss", "wrong, inconsistent"),
    ("as good as", "say what it is treated as"),
    ("be had", "be available"),
    ("but for", "except"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("goes along", "is sent, is included"),
    ("here no more", "removed, no longer exists"),
    ("is no moment", "say what happens"),
    ("its like", "similar, name the others"),
    ("let go of", "release"),
    ("lets go of", "releases"),
    ("mend", "repair"),
    ("mended", "repaired"),
    ("mends", "repairs"),
    ("nobody", "say who does not"),
    ("none the wiser", "is not affected"),
    ("of one's own", "own, private"),
    ("tell", "report, say, show, distinguish"),
    ("telling", "reporting"),
    ("tells", "reports, says, shows, decides"),
    ("to be had", "available"),
    ("told", "reported, informed"),
    ("whoever", "say who"),
];

/// Places where such a word is right: the end of the file's path, the word, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[("xtask/src/words.rs", "", "the list itself")];

/// A word that has a plainer one, and where it is.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    word: &'static str,
    replacement: &'static str,
}

/// Fails if a comment or a Markdown file of the project has a word that has a plainer one.
pub(crate) fn run(project: &Project) -> Result<()> {
    let mut git = std::process::Command::new("git");
    git.current_dir(project.root()).args(["ls-files", "-z", "--", "*.rs", "*.md"]);
    let listed = String::from_utf8(output(&mut git)?).context("a file's name is not UTF-8")?;
    let (mut file_count, mut finding_count) = (0, 0);
    for name in listed.split_terminator('\0') {
        let text =
            fs::read_to_string(project.root().join(name)).with_context(|| format!("cannot read {name}"))?;
        file_count += 1;
        for Finding { line, word, replacement } in findings(Path::new(name), &text) {
            println!("{name}:{line}: {word:?}; instead: {replacement}");
            finding_count += 1;
        }
    }
    ensure!(
        finding_count == 0,
        "{finding_count} words have plainer ones; the list is REPLACEMENTS in xtask/src/words.rs"
    );
    command::say(format!("words: {file_count} files, all plain"));
    Ok(())
}

fn findings(path: &Path, text: &str) -> Vec<Finding> {
    let is_code = path.extension().is_some_and(|extension| extension == "rs");
    // The words of all lines in a row: a phrase may go over the end of a line.
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let prose = if is_code { comment(line) } else { line };
        // Names of code are in backticks: every second part.
        for prose in prose.split('`').step_by(2) {
            let split = prose.split(|c: char| !c.is_alphanumeric() && c != '\'');
            words.extend(split.filter(|word| !word.is_empty()).map(|word| (number + 1, word.to_lowercase())));
        }
    }
    let mut findings = Vec::new();
    for (start, (line, _)) in words.iter().enumerate() {
        for (word, replacement) in REPLACEMENTS {
            let mut phrase = word.split(' ').zip(&words[start..]);
            let length = word.split(' ').count();
            let matches = words.len() - start >= length && phrase.all(|(part, (_, word))| part == word);
            if matches && !is_exception(path, word) {
                findings.push(Finding { line: *line, word, replacement });
            }
        }
    }
    findings
}

/// Returns the comment in a line of Rust, if it has one.
fn comment(line: &str) -> &str {
    let start = if line.trim_start().starts_with("//") { line.find("//") } else { line.find(" // ") };
    start.map_or("", |start| &line[start..])
}

fn is_exception(path: &Path, word: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(file, allowed, _)| path.ends_with(file) && (allowed.is_empty() || *allowed == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        findings(Path::new(path), text).into_iter().map(|finding| (finding.line, finding.word)).collect()
    }

    #[test]
    fn comments_and_prose_are_searched_and_code_is_not() {
        assert_eq!(
            words("a.rs", "let folder = 1; // a folder\n/// Whoever.\nfn told() {}"),
            [(1, "folder"), (2, "whoever")]
        );
        assert_eq!(words("a.md", "All but\nfor one."), [(1, "but for")]);
        assert_eq!(words("a.md", "A foldering mender, `folder` and the `tell`er."), []);
    }

    #[test]
    fn every_word_is_in_lower_case_and_has_another_one() {
        for (word, replacement) in REPLACEMENTS {
            assert!(!replacement.is_empty() && word.to_lowercase() == *word, "{word}");
        }
    }
}
