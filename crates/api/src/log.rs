//! Logs, as the API returns them.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A log of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The guest's serial console.
    #[default]
    Console,
    /// The output of the VMM.
    Vmm,
    /// The agent's messages on the console.
    Agent,
    /// The entries about the VM in the daemon's log.
    Daemon,
}

impl LogSource {
    /// Returns its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Vmm => "vmm",
            Self::Agent => "agent",
            Self::Daemon => "daemon",
        }
    }
}

/// Options of `GET /v1/vms/REF/logs` and `GET /v1/daemon/logs`, which return the log's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadLog {
    /// The log of a VM; unused for the daemon, which has only one.
    #[serde(default)]
    pub source: LogSource,
    /// Follow the log; a VM's log until the VM is down.
    #[serde(default)]
    pub follow: bool,
    /// Only entries since this time, to the second; for older times approximately.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Only this many lines from the end.
    #[serde(default)]
    pub tail: Option<usize>,
}
