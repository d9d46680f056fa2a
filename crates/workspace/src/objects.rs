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
    let shallow: String = history.shallow.iter().map(|id| format!("{id}\n")).collect();
    temp_repo.write("shallow", shallow.as_bytes())?;
    let revisions = history.commits.iter().chain(staged).map(|id| format!("{id}\n"));
    let revisions: String = revisions.chain(known.iter().map(|id| format!("^{id}\n"))).collect();
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
