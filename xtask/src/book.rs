//! Builds the manual in `docs/`, and checks its links and those of the other Markdown files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{check, output, say},
    project::Project,
};

/// The version of mdBook, a program of crates.io.
const MDBOOK: &str = "0.5.4";

/// Builds the manual into `target/book`. Fails on a warning of mdBook and on a broken link.
pub(crate) fn run(project: &Project) -> Result<()> {
    check_links(project)?;
    let mdbook = install(project)?;
    let built = Command::new(&mdbook).arg("build").arg(project.root().join("docs")).output();
    let built = built.with_context(|| mdbook.display().to_string())?;
    let stderr = String::from_utf8_lossy(&built.stderr);
    let is_clean = built.status.success() && !stderr.contains("WARN") && !stderr.contains("ERROR");
    ensure!(is_clean, "mdbook build docs: {}\n{stderr}", built.status);
    say("the manual is in target/book");
    Ok(())
}

/// Installs mdBook into `target/tools`, once, and returns its path.
pub(crate) fn install(project: &Project) -> Result<PathBuf> {
    let root = project.target().join("tools");
    let program = root.join("bin/mdbook");
    if !program.exists() {
        say("compiling mdBook, in about a minute");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut install = Command::new(cargo);
        install.args([
            "install",
            "--quiet",
            "--locked",
            "--debug",
            "--no-default-features",
            "--version",
            MDBOOK,
        ]);
        install.arg("--root").arg(&root).arg("--target-dir").arg(root.join("build")).arg("mdbook");
        check(&mut install)?;
    }
    Ok(program)
}

/// Checks that the files and headings exist to which links between Markdown files lead.
fn check_links(project: &Project) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(project.root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.md",
    ]);
    let listed = String::from_utf8(output(&mut git)?).context("a file's name is not UTF-8")?;
    let mut broken = Vec::new();
    for name in listed.split_terminator('\0') {
        let path = project.root().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        for link in local_links(&text) {
            if !link_target_exists(&path, link) {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    Ok(())
}

/// Returns the targets of the links in `text` that are not URLs.
fn local_links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if is_code || line.starts_with("    ") {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.extend(targets.filter(|target| !target.contains("://")));
    }
    links
}

/// Returns whether the file of a link in the file `from` exists, and the heading in it.
fn link_target_exists(from: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { from.to_owned() } else { from.with_file_name(file) };
    if heading.is_empty() {
        return target.exists();
    }
    fs::read_to_string(target).is_ok_and(|text| headings(&text).contains(heading))
}

/// Returns the ids that mdBook gives to a page's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let id = |title: &str| -> String {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    titles.map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "See [a](b.md) and [c](d.md#e-f), not [x](https://x.example/).\n    [code](no.md)\n```\n[code](no.md)\n```\n";
        assert_eq!(local_links(text), ["b.md", "d.md#e-f"]);
    }

    #[test]
    fn a_link_needs_its_file_and_its_heading() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from.md"), dir.path().join("to.md"));
        fs::write(&from, "# Here").unwrap();
        fs::write(&to, "# One\n## Two & three's").unwrap();
        for (link, expected) in [
            ("to.md", true),
            ("to.md#two--threes", true),
            ("#here", true),
            ("to.md#four", false),
            ("no.md", false),
        ] {
            assert_eq!(link_target_exists(&from, link), expected, "{link}");
        }
    }
}
