//! Resources that a VM takes from the host, as written to the journal.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::step::Step;

/// A resource taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Resource {
    /// A directory of banger's, with its contents.
    #[serde(rename = "folder")]
    Directory { path: PathBuf },
    /// A process. Before it is started it has no pid: it is then identified by its program and by `marker`, the VM's
    /// id, which is one of its arguments.
    Process { role: ProcessRole, program: PathBuf, marker: String, pid: Option<u32>, started: Option<u64> },
}

/// The purpose of a VM's process. The names match journals of earlier builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProcessRole {
    /// Runs the guest.
    #[serde(rename = "VMM")]
    Vmm,
    /// The vsock device of a QEMU guest.
    #[serde(rename = "vsock device")]
    VsockDevice,
    /// Writes the output of the guest and the VMM to logs. Ends by itself, after the VMM.
    #[serde(rename = "console")]
    Console,
}

impl fmt::Display for ProcessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vmm => "VMM",
            Self::VsockDevice => "vsock device",
            Self::Console => "console",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => write!(f, "directory {}", path.display()),
            Self::Process { role, pid: Some(pid), .. } => write!(f, "process {pid} ({role})"),
            Self::Process { role, .. } => write!(f, "a process ({role})"),
        }
    }
}

impl Resource {
    /// Returns the step that writes it to the journal, before it is taken.
    pub(crate) fn journal_step(&self) -> Step {
        match self {
            Self::Directory { .. } => Step::JournalDirectory,
            Self::Process { .. } => Step::JournalProcess,
        }
    }

    /// Returns the step that deletes it from the journal, after it is released.
    pub(crate) fn delete_step(&self) -> Step {
        match self {
            Self::Directory { .. } => Step::JournalDeleteDirectory,
            Self::Process { .. } => Step::JournalDeleteProcess,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_an_earlier_build_is_read() {
        let row =
            r#"{"kind":"process","role":"vsock device","program":"/p","marker":"m","pid":7,"started":9}"#;
        let resource: Resource = serde_json::from_str(row).unwrap();
        assert_eq!(resource.to_string(), "process 7 (vsock device)");
        assert_eq!(serde_json::to_string(&resource).unwrap(), row);
    }
}
