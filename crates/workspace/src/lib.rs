//! Git repositories of the user's, put into VMs and brought back. All of it runs as the user, on the host, by the `git`
//! program; the guest needs none to receive a repository or to have its files brought back.
//!
//! A repository's own configuration is never in force when git reads objects, files or an index: that happens in a
//! [`Scratch`], an empty repository that borrows its objects. So no hook, filter or monitor that it names is run. What
//! comes from a guest is data: listings, files, and packs that are checked before they are kept.

mod changes;
mod commits;
mod error;
mod git;
mod guest_git;
mod history;
mod index;
mod objects;
mod record;
mod repository;
mod scratch;
mod send;
mod snapshot;

pub use changes::{Change, ChangeKind, Changes, Guest, LeftOut, read_files, read_listing};
pub use commits::{Reach, pull};
pub use error::WorkspaceError;
pub use git::{Git, GitError};
pub use record::{Pulled, Record, Records};
pub use repository::Repository;
pub use scratch::Scratch;
pub use send::{Sending, Sent};
pub use snapshot::{Mode, Options, Snapshot};
