//! Logs as the API tells them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which log of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's serial console.
    #[default]
    Console,
    /// The VMM's own words.
    Vmm,
    /// What the agent says on the console.
    Agent,
    /// What the daemon's log has about the VM.
    Daemon,
}

impl LogSource {
    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vmm => "vmm",
            Self::Agent => "agent",
            Self::Daemon => "daemon",
        }
    }
}

/// Options of `GET /v1/vms/REF/logs` and `GET /v1/daemon/logs`, which answer with the log's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLog {
    /// Which; the daemon has only one of its own.
    #[serde(default)]
    pub source: LogSource,
    /// Go on with what is written later, until the VM is down.
    #[serde(default)]
    pub follow: bool,
    /// Only what was written since then, to the second; roughly, when that was long ago.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Only this many of the last lines.
    #[serde(default)]
    pub tail: Option<usize>,
}
