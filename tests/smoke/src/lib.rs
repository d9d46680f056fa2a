//! What scenarios are written with: an isolated host, the built `banger` on it, and what a command left behind.
//!
//! A scenario runs the built programs against a real VM, on whatever VMM there is. It finds the programs in
//! `BANGER_PROGRAMS` (`target/banger` when that is not set), and a state folder that has the default image and kernel
//! already in `BANGER_SMOKE_TEMPLATE`, beside the tars of some systems. `BANGER_FAIL_PROGRAMS` has the programs once more, of which the daemon can be killed at
//! any of its steps. `cargo xtask test` sets all three.

mod agreement;
mod files;
mod host;
mod registry;
mod run;
mod terminal;
mod tree;

pub use files::FileServer;
pub use host::Host;
pub use registry::{Manners, Proxy, Registry, layout, run};
pub use run::{Finished, Running, until};
pub use terminal::Terminal;
pub use tree::{HOSTILE_INIT, static_busybox, tar_of, tar_with, with_libraries};
