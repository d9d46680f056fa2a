//! Working trees in a guest that share the workspace's repository (`git worktree`). Their files are compared with
//! their own index, because the host never sent them.

use std::collections::BTreeMap;

use banger_files::{FileRequest, Kind, ListedFile, Time};

use crate::{
    Changes, GitState, Guest, GuestRefs, Record, Repository, WorkspaceError,
    index::{GITLINK, Index, parse},
    record::SentFile,
};

/// A working tree that shares the workspace's repository.
#[derive(Debug)]
pub struct Worktree {
    name: String,
    /// Its directory in the guest.
    path: Vec<u8>,
    head: Option<String>,
    index: Option<ListedFile>,
}

impl Worktree {
    /// Returns the working trees besides the main one. `git_dir` is the repository's directory in the guest.
    pub fn all(refs: &GuestRefs, state: &GitState, git_dir: &[u8]) -> Vec<Self> {
        let tree = |tree: &crate::guest_refs::WorktreeRefs| {
            let name = tree.name.clone()?;
            let key = Some(name.as_bytes());
            let git_file = state.content(key, b"gitdir")?.trim_ascii_end();
            let path = git_file.strip_suffix(b"/.git")?;
            let path = if path.starts_with(b"/") {
                path.to_vec()
            } else {
                [git_dir, b"/worktrees/", name.as_bytes(), b"/", path].concat()
            };
            let index = state.file(key, b"index").cloned();
            Some(Self { path, head: tree.head.clone(), index, name })
        };
        refs.worktrees.iter().filter_map(tree).collect()
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its directory in the guest.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Returns whether `listed`, the listing of its directory, is that of a working tree.
    pub fn is_in(listed: &[ListedFile]) -> bool {
        listed.iter().any(|file| file.path == b".git" && file.kind == Kind::File)
    }

    /// Returns its index as a file to fetch from the repository's directory.
    pub fn index_file(&self) -> FileRequest {
        FileRequest::new(self.index.iter().map(|file| (file.path.clone(), file.size)))
    }

    /// Returns the working tree as a guest whose files are listed as `listed`. `index` is the content of its index, and
    /// `main` the changes in the main working tree.
    ///
    /// # Errors
    /// Returns an error if a temporary repository cannot be written.
    pub fn into_guest(
        self,
        repository: &Repository,
        main: &Changes,
        state: &GitState,
        index: Option<Vec<u8>>,
        listed: Vec<ListedFile>,
    ) -> Result<Guest, WorkspaceError> {
        let id_length = repository.id_length();
        let mut record = Record::new(&self.path, repository.root(), id_length);
        record.state.checkout.commit = self.head;
        if let (Some(index), Some(file)) = (&index, &self.index) {
            record.files = unchanged_files(index, file.modified, id_length);
        }
        let excludes = state.content(None, b"info/exclude");
        Guest::sharing(repository, main, record, listed, index, excludes.map(<[u8]>::to_vec))
    }
}

/// Returns the files that git found unchanged when it wrote the index at the time `written`.
fn unchanged_files(index: &[u8], written: Time, id_length: usize) -> BTreeMap<Vec<u8>, SentFile> {
    let Ok(Index::Complete(entries, _)) = parse(index, id_length) else { return BTreeMap::new() };
    // git itself does not trust an entry of a file that changed while the index was written.
    let placed_at = match written.nanoseconds.checked_sub(1) {
        Some(nanoseconds) => Time { nanoseconds, ..written },
        None => Time { seconds: written.seconds - 1, nanoseconds: 999_999_999 },
    };
    let known = entries.into_iter().filter(|entry| {
        entry.stage == 0 && entry.mode != GITLINK && !entry.intent_to_add && !entry.skip_worktree
    });
    let file = |entry: crate::index::IndexEntry| {
        let file = SentFile {
            mode: entry.mode,
            size: u64::from(entry.size),
            modified: entry.modified,
            host: None,
            id: Some(entry.id),
            placed_at,
        };
        (entry.path, file)
    };
    known.map(file).collect()
}
