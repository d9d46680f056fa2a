//! Checks dependencies between crates, and between the modules of each crate.

mod crates;
mod metadata;
mod modules;

use anyhow::{Result, ensure};

use crate::project::Project;

/// Checks the crates against their table, and each crate's modules for cycles.
pub(crate) fn run(project: &Project) -> Result<()> {
    let packages = metadata::packages(project)?;
    let violations = crates::violations(project, &packages)?;
    ensure!(violations.is_empty(), "crates have forbidden dependencies:\n  {}", violations.join("\n  "));
    let cycles = modules::cycles(project, &packages)?;
    ensure!(
        cycles.is_empty(),
        "modules depend on each other in a cycle (xtask/src/arrows/modules has the rules):\n  {}",
        cycles.join("\n  ")
    );
    Ok(())
}
