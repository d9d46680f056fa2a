//! Test support for scenarios: an isolated host, the built `banger` on it, and checks of what a command leaves.
//!
//! A scenario runs the built programs against a real VM, on any available VMM. It needs three directories, which
//! `cargo xtask test` prepares: the programs in `target/banger` (or `BANGER_PROGRAMS`); the default image and kernel,
//! and tars of root file systems, in `target/template` (or `BANGER_SMOKE_TEMPLATE`); and the programs with fail
//! points in `target/banger-fail` (or `BANGER_FAIL_PROGRAMS`).

mod agreement;
mod files;
mod host;
mod internet;
mod registry;
mod run;
mod runner;
mod shared;
mod terminal;
mod tree;

pub use banger_smoke_macros::scenario;
pub use files::FileServer;
pub use host::Host;
pub use internet::{Internet, MANY};
#[doc(hidden)]
pub use inventory::submit;
pub use registry::{Forwarding, Proxy, Registry, layout, run};
pub use run::{Finished, Running, until};
pub use runner::{Mark, Scenario, in_lab, main};
pub use shared::debian;
pub use terminal::Terminal;
pub use tree::{HOSTILE_INIT, static_busybox, tar_of, tar_with, with_libraries};
