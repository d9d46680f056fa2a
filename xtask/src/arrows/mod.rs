//! Checks dependencies between crates, and between the modules of each crate.

mod crates;
mod metadata;
mod modules;

use anyhow::{Result, ensure};

use crate::project::Project;

/// Checks the crates against their table, and each crate's modules for cycles.
pub(crate) fn run(project: &Project) -> Result<()> {
    let packages = metadata::packages(project)?;
    let wrong = crates::violations(project, &packages)?;
    ensure!(wrong.is_empty(), "crates have forbidden dependencies:\n  {}", wrong.join("\n  "));
    let circles = modules::circles(project, &packages)?;
    ensure!(
        circles.is_empty(),
        "modules depend on each other in a cycle (xtask/src/arrows/modules has the rules):\n  {}",
        circles.join("\n  ")
    );
    Ok(())
}
