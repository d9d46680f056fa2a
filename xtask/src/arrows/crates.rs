//! Checks dependencies between crates with `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::metadata::Package;
use crate::{
    command::{cargo, output},
    project::Project,
};

/// The workspace's crates, each with the crates that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("banger-proto", &[]),
    ("banger-api", &[]),
    ("banger-sys", &[]),
    ("banger-files", &[]),
    ("banger-durable", &[]),
    ("banger-image", &["banger-api", "banger-proto", "banger-sys"]),
    ("banger-vmm", &["banger-sys"]),
    ("banger-net", &["banger-api", "banger-sys"]),
    (
        "banger-engine",
        &[
            "banger-api",
            "banger-durable",
            "banger-image",
            "banger-net",
            "banger-proto",
            "banger-sys",
            "banger-vmm",
        ],
    ),
    ("banger-client", &["banger-api", "banger-files", "banger-proto"]),
    ("banger-workspace", &["banger-durable", "banger-files", "banger-sys"]),
    ("banger-tools", &[]),
    ("banger-ssh-server", &[]),
    (
        "banger",
        &[
            "banger-api",
            "banger-client",
            "banger-durable",
            "banger-files",
            "banger-proto",
            "banger-ssh-server",
            "banger-tools",
            "banger-workspace",
        ],
    ),
    ("bangerd", &["banger-api", "banger-engine", "banger-sys"]),
    ("banger-agent", &["banger-files", "banger-proto", "banger-sys"]),
    ("banger-vsock-device", &["banger-sys"]),
    ("banger-contract", &[]),
    ("banger-hostile", &["banger-api", "banger-files", "banger-proto"]),
    (
        "banger-fuzz",
        &[
            "banger",
            "banger-api",
            "banger-client",
            "banger-files",
            "banger-hostile",
            "banger-image",
            "banger-net",
            "banger-proto",
            "banger-ssh-server",
            "banger-workspace",
        ],
    ),
    ("banger-smoke-macros", &[]),
    ("banger-smoke", &["banger-contract", "banger-smoke-macros"]),
    ("xtask", &[]),
];

/// Crates that `banger` must not depend on, even indirectly: the daemon's store.
const BANNED_FOR_BANGER: &[&str] = &["rusqlite"];

/// Describes each forbidden dependency.
pub(super) fn violations(project: &Project, packages: &[Package]) -> Result<Vec<String>> {
    let tree = output(&mut cargo(project, &["tree", "-p", "banger", "-e", "normal", "--prefix", "none"]))?;
    let mut violations = disallowed_dependencies(packages);
    violations.extend(banned_dependencies(&String::from_utf8(tree)?));
    ensure!(packages.len() == ALLOWED.len(), "the table names a crate that is not in the workspace");
    Ok(violations)
}

/// Returns dependencies within the workspace that the table does not allow, except those of tests.
fn disallowed_dependencies(packages: &[Package]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let members: BTreeSet<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut violations = Vec::new();
    for package in packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            violations.push(format!("{} is not in the table in xtask/src/arrows/crates.rs", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if members.contains(name) && dependency.kind.as_deref() != Some("dev") && !allowed.contains(&name)
            {
                violations.push(format!("{} must not depend on {name}", package.name));
            }
        }
    }
    violations
}

fn banned_dependencies(tree: &str) -> Vec<String> {
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let banned = BANNED_FOR_BANGER.iter().filter(|name| names.contains(*name));
    banned.map(|name| format!("banger must not reach {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::metadata::Dependency, *};

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).into(),
            kind: kind.map(Into::into),
        };
        Package {
            name: name.into(),
            dependencies: dependencies.iter().map(dependency).collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn allowed_test_and_external_dependencies_pass() {
        let packages = [
            package("banger-sys", &[]),
            package("banger-image", &[("banger-sys", Some("dev"))]),
            package("banger-vmm", &[("banger-sys", None), ("serde", None)]),
        ];
        assert_eq!(disallowed_dependencies(&packages), [""; 0]);
    }

    #[test]
    fn dependencies_outside_the_table_are_violations() {
        let packages = [
            package("banger-image", &[("banger-vmm", None)]),
            package("banger-vmm", &[("banger-image", Some("build"))]),
            package("banger-nic", &[]),
        ];
        assert_eq!(
            disallowed_dependencies(&packages),
            [
                "banger-image must not depend on banger-vmm",
                "banger-vmm must not depend on banger-image",
                "banger-nic is not in the table in xtask/src/arrows/crates.rs",
            ]
        );
    }

    #[test]
    fn banned_crates_are_matched_by_their_full_name() {
        assert_eq!(banned_dependencies("banger v0.1.0 (/w)\nrusqlite-macros v1\n"), [""; 0]);
        assert_eq!(
            banned_dependencies("banger v0.1.0 (/w)\nrusqlite v0.41.0\n"),
            ["banger must not reach rusqlite"]
        );
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Each crate only depends on those above it.
        for (number, (name, allowed)) in ALLOWED.iter().enumerate() {
            let above: Vec<_> = ALLOWED[..number].iter().map(|(name, _)| *name).collect();
            assert!(allowed.iter().all(|used| above.contains(used)), "{name}");
        }
    }
}
