//! VMs.
//!
//! ```text
//!              start                ready           pause
//!   created ─────────▶ starting ───────────▶ running ◀──────▶ paused
//!                       ▲  │                  │  │    resume    │
//!                 start │  │ failed      stop │  │ its VMM or   │ stop
//!                       │  ▼                  ▼  │ guest ends   ▼
//!            stopped, error ◀─────────── stopping ◀─────────────┘
//!                  ▲                             │
//!                  └───── kill, from any of these, and by itself
//! ```
//!
//! `restart` is a stop and a start as one thing. `set` changes what is down, and `commit` makes an image of it. What is down ends by `delete`; everything
//! else by `delete --force`, which interrupts what is under way. A guest that powered itself off leaves `stopped`, one
//! that broke leaves `error`, with why.
//!
//! Each VM has one owner, its [`actor`]: a task to which requests and the deaths of its processes come as messages.
//! [`policy`] says what is allowed when. [`start`], [`stop`], [`pause`], [`change`] and [`commit`] are the work. What they take from
//! the host is a [`Resource`], written to the journal first.

mod actor;
mod change;
mod commit;
mod console;
mod guest;
mod look;
mod pause;
mod policy;
mod process;
mod resource;
mod start;
mod stop;
mod timezone;

use banger_api::{ApiError, ErrorKind};
use banger_vmm::VmmError;

pub(crate) use actor::{Actor, Ask, Message};
pub(crate) use guest::inspect;
pub(crate) use process::{Alive, adopt, end, of_folders};
pub(crate) use resource::{Resource, revert};
pub(crate) use stop::last_words;

/// How long a VMM may take to end once its guest has; the guest's connections break first.
pub(crate) const ENDS: std::time::Duration = std::time::Duration::from_secs(2);

/// A VMM error as the API tells it.
pub(crate) fn vmm_error(error: &VmmError, message: String) -> ApiError {
    let kind = match error {
        VmmError::NoVmm { .. } | VmmError::Unusable { .. } => ErrorKind::MissingProgram,
        VmmError::NoKvm { .. } => ErrorKind::NoKvm,
        VmmError::Timeout { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    };
    ApiError::new(kind, message)
}
