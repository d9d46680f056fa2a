//! Directories of the project.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The workspace that xtask belongs to.
#[derive(Debug)]
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
        Ok(Self { root: root.to_path_buf() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns xtask's output directory, which does not depend on CARGO_TARGET_DIR.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Returns cargo's target directory.
    pub(crate) fn cargo_target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.target(), |dir| self.root.join(dir))
    }

    /// Returns the directory of the built programs, side by side as when installed.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target().join("banger")
    }

    /// Returns the directory of the programs of which banger and bangerd have fail points.
    pub(crate) fn programs_with_fail_points(&self) -> PathBuf {
        self.target().join("banger-fail")
    }
}
