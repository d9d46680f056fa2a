//! Sends the user's git repositories to VMs and brings work back. Everything runs as the user on the host, with the
//! host's `git`. The guest needs no git to receive a repository or to return its files.
//!
//! git reads files, indexes and guest data only in a [`TempRepository`], an empty repository that borrows the
//! objects of the real one. In the real repository, banger runs only git commands that execute nothing from its
//! configuration: no hook, filter or monitor. Everything from a guest is data: listings, files, and packs that are
//! checked before they are stored.

mod alternates;
mod budget;
mod cat_file;
mod changes;
mod commits;
mod conflicts;
mod error;
mod existing;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
mod git;
mod git_error;
mod git_state;
mod guest_git;
mod guest_refs;
mod history;
mod import;
mod index;
mod left_out;
mod objects;
mod parts;
mod process;
mod received;
mod record;
mod records;
mod ref_names;
mod repository;
mod send;
mod size;
mod snapshot;
mod steps;
mod store;
mod temp_repo;
mod url;
mod worktree;

pub use banger_sys::confine::Report as ConfinementReport;
pub use budget::Budget;
pub use changes::{Change, ChangeKind, Changes, Guest};
pub use commits::{Work, Worktrees};
pub use error::WorkspaceError;
pub use fetch::fetch_refs;
pub use git::{Git, GitError};
pub use git_state::GitState;
pub use guest_refs::{GuestGit, GuestRefs, PROTOCOL};
pub use left_out::LeftOut;
pub use process::Cancel;
pub use received::{read_files, read_git_listing, read_listing};
pub use record::{Pulled, Record};
pub use records::{LockedRecords, Records};
pub use repository::Repository;
pub use send::{Upload, UploadResult};
pub use snapshot::{Mode, Options, Snapshot};
pub use steps::STEPS;
pub use temp_repo::TempRepository;
pub use worktree::Worktree;
