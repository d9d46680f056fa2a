//! The workspace's packages, read from `cargo metadata`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    command::{cargo, output},
    project::Project,
};

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) dependencies: Vec<Dependency>,
    pub(super) targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Dependency {
    pub(super) name: String,
    /// `None` for an ordinary dependency.
    pub(super) kind: Option<String>,
}

/// A library, program or other target of a package.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) kind: Vec<String>,
    /// The file of the root module.
    pub(super) src_path: PathBuf,
}

/// Returns the workspace's members.
pub(super) fn packages(project: &Project) -> Result<Vec<Package>> {
    let json = output(&mut cargo(project, &["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cargo metadata")?;
    Ok(metadata.packages)
}
