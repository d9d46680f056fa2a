//! What a harness and its worker tell each other, as lines of JSON.

use serde::{Deserialize, Serialize};

/// What the harness tells a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Run this command line.
    Run(Vec<String>),
    /// Advance the clock.
    Tick,
}

/// What a worker answers when a command has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Peak of allocated memory, in bytes.
    pub(crate) peak_memory: usize,
}
