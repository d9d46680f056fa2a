//! Checks the rules for third-party crates: licences, banned crates, duplicates and sources.
//!
//! `deny.toml` is a configuration of cargo-deny, which checks the same rules and also the advisory database. Building
//! cargo-deny takes longer than building the project, so this checks `cargo metadata` instead.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    command::{cargo, output},
    programs::TRIPLE,
    project::Project,
};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The tables of `deny.toml` that xtask checks.
#[derive(Debug, Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    /// SPDX identifiers, with their exception if they have one.
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    /// Crates that must not be used in any version.
    deny: Vec<ListedCrate>,
    /// Versions (`name@version`) of crates that may be used beside another version.
    skip: Vec<ListedCrate>,
}

#[derive(Debug, Deserialize)]
struct ListedCrate {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Clone, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a crate of the workspace.
    source: Option<String>,
}

pub(crate) fn run(project: &Project) -> Result<()> {
    let file = project.root().join("deny.toml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let metadata = ["metadata", "--format-version", "1", "--all-features", "--filter-platform", TRIPLE];
    let json = output(&mut cargo(project, &metadata))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cargo metadata")?;
    let violations = violations(&rules, &metadata.packages);
    if !violations.is_empty() {
        bail!("third-party crates break the rules of deny.toml:\n  {}", violations.join("\n  "));
    }
    Ok(())
}

fn violations(rules: &Rules, packages: &[Package]) -> Vec<String> {
    let mut violations = Vec::new();
    for Package { name, version, license, source } in packages {
        match license {
            None => violations.push(format!("{name} {version} names no licence")),
            Some(license) if !is_allowed(license, &rules.licenses.allow) => {
                violations.push(format!("{name} {version} has the licence {license}"));
            }
            Some(_) => {}
        }
        if let Some(banned) = rules.bans.deny.iter().find(|banned| banned.name == *name) {
            violations.push(format!("{name} {version} is banned: {}", banned.reason));
        }
        if let Some(source) = source.as_ref().filter(|source| *source != CRATES_IO) {
            violations.push(format!("{name} {version} is from {source}"));
        }
    }
    violations.extend(duplicates(&rules.bans.skip, packages));
    violations
}

/// Returns crates with several versions that `skip` does not list, and unused entries of `skip`.
fn duplicates(skip: &[ListedCrate], packages: &[Package]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let mut violations = Vec::new();
    for ListedCrate { name: entry, .. } in skip {
        let used = entry.split_once('@').and_then(|(name, version)| {
            let versions = versions.get_mut(name)?;
            versions.iter().position(|other| *other == version).map(|position| versions.remove(position))
        });
        if used.is_none() {
            violations.push(format!("{entry} in `skip` is no longer a duplicate"));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        violations.push(format!("{name} is used in several versions: {}", versions.join(", ")));
    }
    violations
}

/// Returns whether `allow` satisfies an SPDX expression; a slash is an old spelling of OR.
fn is_allowed(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allow) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// Parses `all_of OR all_of …`; `None` is a syntax error.
fn any_of(words: &mut Words, allow: &[String]) -> Option<bool> {
    let mut allowed = all_of(words, allow)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words, allow)?;
    }
    Some(allowed)
}

/// Parses `license AND license …`.
fn all_of(words: &mut Words, allow: &[String]) -> Option<bool> {
    let mut allowed = primary(words, allow)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= primary(words, allow)?;
    }
    Some(allowed)
}

/// Parses an expression in parentheses, or a licence with its exception.
fn primary(words: &mut Words, allow: &[String]) -> Option<bool> {
    if words.next_if_eq(&"(").is_some() {
        let allowed = any_of(words, allow)?;
        return words.next_if_eq(&")").map(|_| allowed);
    }
    let mut license = words.next()?.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        license = format!("{license} WITH {}", words.next()?);
    }
    Some(allow.contains(&license))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        toml::from_str(
            r#"
            licenses.allow = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
            bans.deny = [{ crate = "openssl-sys", reason = "TLS is rustls" }]
            bans.skip = [{ crate = "syn@2.0.1", reason = "an old macro" }]
            "#,
        )
        .unwrap()
    }

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            license: Some("MIT".into()),
            source: Some(CRATES_IO.into()),
        }
    }

    fn violations_with(package: Package) -> Vec<String> {
        violations(&rules(), &[package, self::package("syn", "2.0.1"), self::package("syn", "3.0.0")])
    }

    #[test]
    fn crates_that_follow_the_rules_pass() {
        assert_eq!(violations_with(package("bytes", "1.0.0")), [""; 0]);
        assert_eq!(violations_with(Package { source: None, ..package("banger", "0.1.0") }), [""; 0]);
    }

    #[test]
    fn a_licence_that_is_not_listed_fails() {
        let license = |license: &str| {
            violations_with(Package { license: Some(license.into()), ..package("a", "1.0.0") })
        };
        for allowed in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/GPL-3.0",
            "MIT AND Apache-2.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "GPL-3.0 OR Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(license(allowed), [""; 0], "{allowed}");
        }
        for refused in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR GPL-3.0) AND GPL-3.0",
            "MIT WITH LLVM-exception",
            "MIT OR",
            "(MIT",
            "MIT)",
            "",
        ] {
            assert_eq!(license(refused), [format!("a 1.0.0 has the licence {refused}")]);
        }
        assert_eq!(
            violations_with(Package { license: None, ..package("a", "1.0.0") }),
            ["a 1.0.0 names no licence"]
        );
    }

    #[test]
    fn banned_crates_and_other_sources_fail() {
        assert_eq!(
            violations_with(package("openssl-sys", "0.9.0")),
            ["openssl-sys 0.9.0 is banned: TLS is rustls"]
        );
        let git = Package { source: Some("git+https://example.com/a".into()), ..package("a", "1.0.0") };
        assert_eq!(violations_with(git), ["a 1.0.0 is from git+https://example.com/a"]);
    }

    #[test]
    fn unlisted_duplicates_and_unused_list_entries_fail() {
        assert_eq!(
            violations_with(package("syn", "1.0.0")),
            ["syn is used in several versions: 1.0.0, 3.0.0"]
        );
        assert_eq!(
            violations(&rules(), &[package("syn", "3.0.0")]),
            ["syn@2.0.1 in `skip` is no longer a duplicate"]
        );
    }
}
