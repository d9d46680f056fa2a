//! Writes that survive a crash of the program or the host: files that are replaced as a whole, locks between
//! processes, and named steps, at which a test build can be killed.

#[cfg(feature = "fail-points")]
mod fail;
mod file;
mod lock;
mod step;

pub use file::{create, create_dir, remove, sync_dir, sync_dirs, write};
pub use lock::Lock;
pub use step::{HAS_FAIL_POINTS, around, fail_points, reach_after, reach_before, reach_stage};
