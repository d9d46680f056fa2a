//! Results of the boot, for the greeting.

use banger_proto::BootMark;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A record of the guest's boot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BootRecord {
    /// Completed steps with their times.
    pub marks: Vec<BootMark>,
    /// The init that runs as PID 1; `None` if the agent does.
    pub init: Option<String>,
    /// Vsock port on the host that the agent dials.
    pub ready_port: u32,
}

impl BootRecord {
    /// Records that step `name` is completed now.
    pub fn mark(&mut self, name: &str) {
        let now = clock_gettime(ClockId::Boottime);
        let at_us = u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap_or_default();
        self.marks.push(BootMark { name: name.to_owned(), at_us });
    }
}
