//! Packs the objects that a guest needs.

use std::{fs, path::PathBuf};

use crate::{
    WorkspaceError,
    error::{reading, writing},
    git::odd,
    history::History,
    scratch::Scratch,
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
    scratch: &Scratch,
    history: &History,
    known: &[String],
    staged: &[String],
) -> Result<Option<Pack>, WorkspaceError> {
    let ends: String = history.shallow.iter().map(|id| format!("{id}\n")).collect();
    scratch.write("shallow", ends.as_bytes())?;
    let wanted = history.commits.iter().chain(staged).map(|id| format!("{id}\n"));
    let wanted: String = wanted.chain(known.iter().map(|id| format!("^{id}\n"))).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let made = scratch.path().join("made");
    fs::create_dir_all(&made).map_err(writing(&made))?;
    let base = made.join("pack");
    let base = base.to_str().ok_or_else(|| odd("pack-objects", "the cache directory is not UTF-8"))?;
    // Reuse existing deltas. Searching for more would take longer than sending the data.
    let arguments =
        ["pack-objects", "--revs", "--quiet", "--window=0", "--non-empty", "--delta-base-offset", base];
    scratch.run(&arguments, wanted.as_bytes())?;
    let mut names = fs::read_dir(&made).map_err(reading(&made))?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".pack").map(str::to_owned)
    });
    let Some(name) = names.next() else { return Ok(None) };
    let path = |suffix: &str| made.join(format!("{name}.{suffix}"));
    Ok(Some(Pack { pack: path("pack"), index: path("idx"), name }))
}
