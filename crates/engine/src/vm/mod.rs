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
//! [`policy`] says what is allowed when. [`start`], [`stop`], [`pause`], [`change`] and [`commit`] are the work. What they
//! take from the host is a [`Resource`](crate::resource::Resource), written to the journal first. [`Vms`] is the service
//! that the daemon's routes call.

mod actor;
mod change;
mod commit;
mod console;
mod create;
mod guest;
mod hardware;
mod idle;
mod logs;
mod look;
mod names;
mod owners;
mod pause;
mod policy;
mod preflight;
mod process;
mod revert;
mod sampling;
mod services;
mod start;
mod stats;
mod stop;
mod timezone;
mod vms;

pub(crate) use idle::stop_idle;
pub(crate) use owners::Owners;
pub(crate) use process::{Alive, adopt, kill, of_dirs};
pub(crate) use revert::revert;
pub(crate) use sampling::sample;
pub(crate) use services::Services;
pub(crate) use stop::last_words;
pub use vms::Vms;
