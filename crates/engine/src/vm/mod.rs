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
//!                  └───── from any of these: kill, or the VM ends by itself
//! ```
//!
//! `restart` is a stop and a start as one operation. `set` changes a VM that is down, and `commit` creates an image
//! from it. `delete` removes a VM that is down; `delete --force` removes any VM and interrupts work in progress. A
//! guest that powered itself off leaves state `stopped`; a guest that failed leaves state `error` with the reason.
//!
//! Each VM has one owner, its [`actor`]: a task that receives requests as messages and notices when the VM's
//! processes exit. [`policy`] decides which requests are allowed in which state. [`start`], [`stop`], [`pause`],
//! [`change`] and [`commit`] carry them out. Each host resource that they acquire is a
//! [`Resource`](crate::resource::Resource), written to the journal first. The daemon's routes call [`Vms`].

mod actor;
mod actors;
mod change;
mod commit;
mod console;
mod create;
mod flow_processes;
mod flows;
mod hardware;
mod idle;
mod logs;
mod marker;
mod names;
mod network;
mod pause;
mod policy;
mod preflight;
mod process;
mod publish;
mod revert;
mod sampling;
mod services;
mod spawn;
mod start;
mod stats;
mod stop;
mod timezone;
mod verify;
mod vms;

use crate::guest;

pub(crate) use actors::Actors;
pub(crate) use idle::stop_idle;
pub(crate) use marker::processes_of;
pub(crate) use process::{LiveProcess, VmProcesses, adopt};
pub(crate) use revert::revert;
pub(crate) use sampling::sample;
pub(crate) use services::Services;
pub(crate) use stop::{console_tail, finish_deletion};
pub use vms::Vms;
