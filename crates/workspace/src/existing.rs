//! Finds which objects a repository has.

use std::collections::BTreeSet;

use crate::{
    Repository, TempRepository, WorkspaceError,
    git::{GitCommand, run},
};

/// Returns those of `ids` that the temporary repository has.
pub(crate) fn existing<'i>(
    temp_repo: &TempRepository,
    ids: impl IntoIterator<Item = &'i String>,
) -> Result<BTreeSet<String>, WorkspaceError> {
    existing_of(temp_repo.command(BATCH_CHECK), ids)
}

/// Returns those of `ids` that the host's repository has.
pub(crate) fn existing_in<'i>(
    repository: &Repository,
    ids: impl IntoIterator<Item = &'i String>,
) -> Result<BTreeSet<String>, WorkspaceError> {
    existing_of(repository.command(BATCH_CHECK), ids)
}

const BATCH_CHECK: [&str; 2] = ["cat-file", "--batch-check=%(objectname)"];

fn existing_of<'i>(
    command: GitCommand,
    ids: impl IntoIterator<Item = &'i String>,
) -> Result<BTreeSet<String>, WorkspaceError> {
    let input = lines(ids.into_iter().map(String::as_str));
    if input.is_empty() {
        return Ok(BTreeSet::new());
    }
    let listed = run(command, input.as_bytes())?;
    let listed = String::from_utf8_lossy(&listed);
    Ok(listed.lines().filter(|line| !line.contains(' ')).map(str::to_owned).collect())
}

/// Returns ids as input for git, one per line.
pub(crate) fn lines<'i>(ids: impl Iterator<Item = &'i str>) -> String {
    ids.flat_map(|id| [id, "\n"]).collect()
}
