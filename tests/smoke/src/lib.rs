//! What scenarios are written with: an isolated host, the built `banger` on it, and what a command left behind.
//!
//! A scenario runs the built programs against a real VM, on whatever VMM there is. It finds the programs in
//! `target/banger`; in `target/template` a state folder that has the default image and kernel already, beside the tars of
//! some systems; and in `target/banger-fail` the programs once more, of which the daemon can be killed at any of its steps.
//! `cargo xtask test` makes all three, and `BANGER_PROGRAMS`, `BANGER_SMOKE_TEMPLATE` and `BANGER_FAIL_PROGRAMS` say where
//! else they are.

mod agreement;
mod files;
mod host;
mod registry;
mod run;
mod runner;
mod shared;
mod terminal;
mod tree;

pub use banger_smoke_macros::scenario;
pub use files::FileServer;
pub use host::Host;
#[doc(hidden)]
pub use inventory::submit;
pub use registry::{Manners, Proxy, Registry, layout, run};
pub use run::{Finished, Running, until};
pub use runner::{Mark, Scenario, in_lab, main};
pub use shared::debian;
pub use terminal::Terminal;
pub use tree::{HOSTILE_INIT, static_busybox, tar_of, tar_with, with_libraries};
