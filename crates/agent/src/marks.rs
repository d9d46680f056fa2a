//! What the boot leaves for the greeting.

use banger_proto::BootMark;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How the guest came up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Booted {
    /// What was done when.
    pub marks: Vec<BootMark>,
    /// The init that PID 1 is, unless it is the agent.
    pub init: Option<String>,
    /// The port of the host to dial now.
    pub ready_port: u32,
}

impl Booted {
    /// Notes that `name` is done now.
    pub fn mark(&mut self, name: &str) {
        let now = clock_gettime(ClockId::Boottime);
        let at_us = u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap_or_default();
        self.marks.push(BootMark { name: name.to_owned(), at_us });
    }
}
