//! Reads what a guest sends: listings, small files as a whole, others one by one.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
    path::Path,
};

use banger_files::{FileRequest, Item, ListedFile, ListingReader, Part, Reader, StreamError};
use tempfile::{SpooledTempFile, spooled_tempfile_in};

use crate::{
    GitState, WorkspaceError,
    error::writing,
    record::{FILE, LINK, PROGRAM},
    size::size_text,
};

/// Maximum size of files in memory together, in bytes: ignore files, indexes and git's small files.
const MAX_SMALL_FILES: u64 = 256 << 20;

/// Maximum number of such files. Each ignore file is written to disk, in directories of its own.
const MAX_SMALL_FILE_COUNT: usize = 100_000;

/// Reads a listing from a guest.
///
/// # Errors
/// Returns an error if it is malformed.
pub fn read_listing(input: impl Read) -> Result<Vec<ListedFile>, WorkspaceError> {
    let mut reader = ListingReader::new(input)?;
    let mut listed = Vec::new();
    while let Some(record) = reader.next_record()? {
        listed.push(record);
    }
    Ok(listed)
}

/// Reads a listing of a repository's directory from a guest: what shows work there.
///
/// # Errors
/// Returns an error if it is malformed.
pub fn read_git_listing(input: impl Read) -> Result<GitState, WorkspaceError> {
    let mut reader = ListingReader::new(input)?;
    let mut state = GitState::default();
    while let Some(record) = reader.next_record()? {
        state.add(record);
    }
    Ok(state)
}

/// Reads the small files of `request` from a guest, by path.
///
/// # Errors
/// Returns an error if they are malformed, were not requested, or are too large together.
pub fn read_files(
    input: impl Read,
    request: FileRequest,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, WorkspaceError> {
    check_small_files(&request)?;
    let mut files = BTreeMap::new();
    let spool = Spool { memory: usize::MAX, dir: &std::env::temp_dir() };
    each_file(input, request, spool, |path, mode, _, content| {
        let mut bytes = Vec::new();
        if mode != LINK {
            content.read_to_end(&mut bytes).map_err(WorkspaceError::Transfer)?;
            files.insert(path.to_vec(), bytes);
        }
        Ok(())
    })?;
    Ok(files)
}

/// Checks the size of files that are read into memory. While they arrive, they can only grow by a fixed amount.
pub(crate) fn check_small_files(request: &FileRequest) -> Result<(), WorkspaceError> {
    let limit = if request.size() > MAX_SMALL_FILES {
        size_text(MAX_SMALL_FILES)
    } else if request.paths().count() > MAX_SMALL_FILE_COUNT {
        format!("{MAX_SMALL_FILE_COUNT} files")
    } else {
        return Ok(());
    };
    Err(WorkspaceError::TooLarge { what: "ignore files, index or git state", limit })
}

/// Where files are until they have arrived.
pub(crate) struct Spool<'a> {
    /// Maximum size of a file that stays in memory, in bytes.
    pub(crate) memory: usize,
    /// Directory for larger ones.
    pub(crate) dir: &'a Path,
}

/// Calls `visit` with each file and link of `request` in a stream: its path, git's mode, size and content. Incomplete
/// files are skipped.
pub(crate) fn each_file(
    input: impl Read,
    mut request: FileRequest,
    spool: Spool<'_>,
    mut visit: impl FnMut(&[u8], u32, u64, &mut dyn Read) -> Result<(), WorkspaceError>,
) -> Result<(), WorkspaceError> {
    let mut reader = Reader::new(input)?;
    match reader.next_item()? {
        Item::Directory(entry) if entry.name.is_empty() => {}
        _ => return Err(StreamError::Malformed("the first item is not an unnamed directory").into()),
    }
    let mut dirs: Vec<Vec<u8>> = Vec::new();
    loop {
        match reader.next_item()? {
            Item::End => return Ok(()),
            Item::Directory(entry) => {
                let path = joined(&dirs, &entry.name);
                request.enter(&path)?;
                dirs.push(path);
            }
            Item::Leave => _ = dirs.pop(),
            Item::Remove(_) => return Err(StreamError::Malformed("unexpected removal").into()),
            Item::Link(entry, target) => {
                let path = joined(&dirs, &entry.name);
                request.take(&path)?;
                visit(&path, LINK, target.len() as u64, &mut &*target)?;
            }
            Item::File(entry) => {
                let path = joined(&dirs, &entry.name);
                let mode = if entry.mode & 0o100 != 0 { PROGRAM } else { FILE };
                let max = request.take(&path)?;
                let mut content = spooled_tempfile_in(spool.memory, spool.dir);
                let (size, complete) = read_content(&mut reader, &path, max, &mut content, spool.dir)?;
                request.record_size(max, size);
                if complete {
                    visit(&path, mode, size, &mut content)?;
                }
            }
        }
    }
}

fn joined(dirs: &[Vec<u8>], name: &[u8]) -> Vec<u8> {
    match dirs.last() {
        Some(dir) => [dir, &b"/"[..], name].concat(),
        None => name.to_vec(),
    }
}

/// Reads the current file, of at most `max` bytes, into `out`. Returns its size, and whether it is complete.
fn read_content(
    reader: &mut Reader<impl Read>,
    path: &[u8],
    max: u64,
    out: &mut SpooledTempFile,
    dir: &Path,
) -> Result<(u64, bool), WorkspaceError> {
    let mut size = 0;
    loop {
        match reader.next_part()? {
            Part::Bytes(bytes) => {
                size += bytes.len() as u64;
                if size > max {
                    return Err(WorkspaceError::Grown(path.to_vec()));
                }
                out.write_all(bytes).map_err(writing(dir))?;
            }
            Part::Broken => return Ok((size, false)),
            Part::Complete => {
                out.rewind().map_err(writing(dir))?;
                return Ok((size, true));
            }
        }
    }
}
