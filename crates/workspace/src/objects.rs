//! Packs the objects that a guest needs.

use std::{fs, path::PathBuf};

use crate::{
    WorkspaceError,
    error::{reading, writing},
    git::unexpected_output,
    history::History,
    temp_repo::TempRepository,
};

/// A pack and its index.
#[derive(Debug)]
pub(crate) struct Pack {
    /// Its name, which identifies its content.
    pub(crate) name: String,
    pub(crate) pack: PathBuf,
    pub(crate) index: PathBuf,
}

/// Packs the objects of `history` and the blobs `staged`. Leaves out those reachable from the commits `known`, and
/// returns `None` if nothing remains.
pub(crate) fn pack(
    temp_repo: &TempRepository,
    history: &History,
    known: &[String],
    staged: &[String],
) -> Result<Option<Pack>, WorkspaceError> {
    let mut revisions = revisions(temp_repo, history, staged)?;
    revisions.extend(known.iter().map(|id| format!("^{id}\n")));
    if revisions.is_empty() {
        return Ok(None);
    }
    let dir = temp_repo.path().join("new-packs");
    fs::create_dir_all(&dir).map_err(writing(&dir))?;
    let base = dir.join("pack");
    let base =
        base.to_str().ok_or_else(|| unexpected_output("pack-objects", "the cache directory is not UTF-8"))?;
    // Reuse existing deltas. Searching for more would take longer than sending the data.
    let arguments =
        ["pack-objects", "--revs", "--quiet", "--window=0", "--non-empty", "--delta-base-offset", base];
    temp_repo.run(&arguments, revisions.as_bytes())?;
    let mut names = fs::read_dir(&dir).map_err(reading(&dir))?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".pack").map(str::to_owned)
    });
    let Some(name) = names.next() else { return Ok(None) };
    let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    Ok(Some(Pack { pack: path("pack"), index: path("idx"), name }))
}

/// Returns whether all objects of `history` and the blobs `staged` are in the repository.
pub(crate) fn is_complete(
    temp_repo: &TempRepository,
    history: &History,
    staged: &[String],
) -> Result<bool, WorkspaceError> {
    let revisions = revisions(temp_repo, history, staged)?;
    let arguments = ["rev-list", "--objects", "--missing=print", "--quiet", "--stdin"];
    Ok(temp_repo.run(&arguments, revisions.as_bytes())?.is_empty())
}

/// Lets the history end where `history` does, and returns its commits and the blobs `staged`, one in each line.
fn revisions(
    temp_repo: &TempRepository,
    history: &History,
    staged: &[String],
) -> Result<String, WorkspaceError> {
    let shallow: String = history.shallow.iter().map(|id| format!("{id}\n")).collect();
    temp_repo.write("shallow", shallow.as_bytes())?;
    Ok(history.commits.iter().chain(staged).map(|id| format!("{id}\n")).collect())
}
