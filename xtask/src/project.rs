//! The project's folders.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The workspace that this program belongs to.
#[derive(Debug)]
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        Ok(Self { root: root.to_path_buf() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What xtask makes is here, wherever cargo builds.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Where cargo builds.
    pub(crate) fn cargo_target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.target(), |folder| self.root.join(folder))
    }

    /// The programs, side by side as they are installed.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target().join("banger")
    }

    /// The programs once more, with a daemon that can be killed at any of its steps.
    pub(crate) fn failing_programs(&self) -> PathBuf {
        self.target().join("banger-fail")
    }
}
