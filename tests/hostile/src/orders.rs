//! Messages between the harness and its worker, as lines of JSON.

use serde::{Deserialize, Serialize};

/// An order of the harness.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Run this command line.
    Run(Vec<String>),
    /// Advance the clock.
    Tick,
}

/// The worker's answer when a command has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Peak of allocated memory, in bytes.
    pub(crate) peak_memory: usize,
}
