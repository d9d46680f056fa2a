//! Finds words that have a plainer word in code, comments and documents, so that they stay out.
//!
//! Readers search for the field's own terms. `REPLACEMENTS` lists words that hide them, each with words to use
//! instead; `EXCEPTIONS` lists the places where one of them is right. A name such as `FolderPath` or `folder_path` has
//! two words.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, output},
    project::Project,
};

/// Words and phrases in lower case, each with what to write instead.
const REPLACEMENTS: &[(&str, &str)] = &[
    ("a moment", "say how long, or until when"),
    ("amiss", "wrong, inconsistent"),
    ("as good as", "say what it is treated as"),
    ("be had", "be available"),
    ("but for", "except"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("go along", "be sent, be included"),
    ("goes along", "is sent, is included"),
    ("here no more", "removed, no longer exists"),
    ("how it ended", "its exit status, its result"),
    ("is asked", "name who asks whom: banger asks the user"),
    ("is no moment", "say what happens"),
    ("its like", "similar, name the others"),
    ("let go of", "release"),
    ("make no sense", "be invalid"),
    ("makes no sense", "is invalid"),
    ("lets go of", "releases"),
    ("mend", "repair"),
    ("mended", "repaired"),
    ("mends", "repairs"),
    ("nobody", "say who does not"),
    ("none the wiser", "is not affected"),
    ("of one's own", "own, private"),
    ("one that", "repeat the noun"),
    ("packed", "compressed, archived, sent"),
    ("stand still", "pause"),
    ("stands still", "is paused, waits"),
    ("tell", "report, say, show, distinguish"),
    ("telling", "reporting"),
    ("tells", "reports, says, shows, decides"),
    ("to be had", "available"),
    ("told", "reported, informed"),
    ("what is told", "message, report"),
    ("whoever", "say who"),
];

/// Places where such a word is right: the beginning of the file's path, the word, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("crates/agent/src/users.rs", "nobody", "the user of that name"),
    ("crates/banger/src/workspace/tools.rs", "folder", "variables of dev containers"),
    ("crates/sys/src/confine/child.rs", "packed", "an attribute of Rust"),
    ("crates/workspace/src/fetch.rs", "packed", "a file of git"),
    ("crates/engine/src/resource.rs", "folder", "stored in journals"),
    ("crates/engine/src/step.rs", "folder", "stored in journals"),
    ("crates/engine/tests/engine/", "folder", "stored in journals"),
    ("crates/files/src/listing.rs", "packed", "a file of git"),
    ("crates/tools/src/", "folder", "variables and keys of dev containers"),
    ("crates/workspace/src/parts.rs", "packed", "a file of git"),
    ("crates/workspace/src/record.rs", "packed", "a file of git"),
    ("crates/workspace/tests/hostile.rs", "packed", "a file of git"),
    ("crates/workspace/tests/snapshot.rs", "nobody", "the user of that name"),
    ("docs/src/design/workspaces.md", "packed", "a file of git"),
    ("tests/smoke/src/agreement.rs", "folder", "stored in journals"),
    ("tests/smoke/tests/scenarios/guest.rs", "nobody", "the user of that name"),
    ("tests/smoke/tests/scenarios/project.rs", "folder", "variables of dev containers"),
    ("xtask/src/words.rs", "", "the list itself"),
];

/// Files that are searched, as patterns of git.
const FILES: &[&str] = &["*.c", "*.md", "*.py", "*.rs", "*.sh", "*.toml"];

/// A word that has a plainer one, and where it is.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    word: &'static str,
    replacement: &'static str,
}

/// Fails if a file of the project has a word that has a plainer one.
pub(crate) fn run(project: &Project) -> Result<()> {
    let mut git = std::process::Command::new("git");
    git.current_dir(project.root()).args(["ls-files", "-z", "--"].iter().chain(FILES));
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
    // The words of all lines in a row: a phrase may continue on the next line.
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in line.split(|c: char| !c.is_alphanumeric() && c != '\'') {
            words.extend(words_of_name(name).map(|word| (number + 1, word.to_lowercase())));
        }
    }
    let mut findings = Vec::new();
    for (start, (line, _)) in words.iter().enumerate() {
        for (word, replacement) in REPLACEMENTS {
            let mut following = words[start..].iter();
            let is_next = |part: &str| following.next().is_some_and(|(_, word)| word == part);
            if word.split(' ').all(is_next) && !is_exception(path, word) {
                findings.push(Finding { line: *line, word, replacement });
            }
        }
    }
    findings
}

/// Splits a name before each capital letter that follows a small one.
fn words_of_name(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_end = |(previous, next): (char, char)| previous.is_lowercase() && next.is_uppercase();
        let pairs = rest.char_indices().zip(rest.char_indices().skip(1));
        let end = pairs.into_iter().find(|((_, a), (_, b))| is_end((*a, *b)));
        let (word, after) = rest.split_at(end.map_or(rest.len(), |(_, (end, _))| end));
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

fn is_exception(path: &Path, word: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(start, allowed, _)| path.starts_with(start) && (allowed.is_empty() || *allowed == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        findings(Path::new(path), text).into_iter().map(|finding| (finding.line, finding.word)).collect()
    }

    #[test]
    fn words_are_found_in_comments_strings_and_names() {
        assert_eq!(
            words("a.rs", "let a_folder = 1; // Whoever.\nfn TellAll() { f(\"mend it\") }"),
            [(1, "folder"), (1, "whoever"), (2, "tell"), (2, "mend")]
        );
        assert_eq!(words("a.md", "All but\nfor one."), [(1, "but for")]);
        assert_eq!(words("a.md", "A foldering mender, toldest."), []);
    }

    #[test]
    fn exceptions_are_for_one_word_in_one_place() {
        assert_eq!(words("crates/tools/src/setup.rs", "let folder = told;"), [(1, "told")]);
        assert_eq!(words("crates/tools/Cargo.toml", "folder"), [(1, "folder")]);
    }

    #[test]
    fn every_word_is_in_lower_case_and_has_another_one() {
        for (word, replacement) in REPLACEMENTS {
            assert!(!replacement.is_empty() && word.to_lowercase() == *word, "{word}");
        }
    }
}
