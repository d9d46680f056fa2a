//! The promises.

use std::fmt;

use crate::command::Command;

/// A promise of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Only the files that the user asked for change.
    Paths,
    /// Memory and disk space are bounded.
    Resources,
    /// Every command ends: by itself if the guest is silent, and always if the user interrupts it.
    Time,
    /// Nothing that a guest says controls the terminal, or looks like a message of banger's.
    Terminal,
}

impl Promise {
    /// All promises.
    pub const ALL: [Self; 4] = [Self::Paths, Self::Resources, Self::Time, Self::Terminal];
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The promise.
    pub promise: Promise,
    /// The command.
    pub command: Command,
    /// What happened.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}: {}", self.promise, self.command, self.problem)
    }
}
