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
    /// A process. Before it is started it has no id: it is then identified by `marker`, which only its environment
    /// has.
    Process {
        role: ProcessRole,
        program: PathBuf,
        marker: String,
        #[serde(flatten)]
        id: Option<ProcessId>,
    },
}

/// The identity of a process. A pid alone may belong to another process later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    /// Start time in clock ticks since the host's boot.
    pub(crate) started: u64,
    /// Id of that boot. Journals of earlier builds lack it.
    pub(crate) boot_id: Option<String>,
    /// Device and inode of the program's file. pasta, and journals of earlier builds, lack it.
    pub(crate) executable: Option<(u64, u64)>,
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
    /// Connects the VM's namespaces to the host's network. The namespace process ends with it.
    #[serde(rename = "pasta")]
    Pasta,
    /// Answers the guest's DNS requests. Ends with the namespace process.
    #[serde(rename = "gateway")]
    Gateway,
}

impl fmt::Display for ProcessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vmm => "VMM",
            Self::VsockDevice => "vsock device",
            Self::Console => "console",
            Self::Pasta => "pasta",
            Self::Gateway => "gateway",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path } => write!(f, "directory {}", path.display()),
            Self::Process { role, id: Some(id), .. } => write!(f, "process {} ({role})", id.pid),
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
        for (ids, name) in [
            (r#""pid":7,"started":9"#, "process 7 (vsock device)"),
            (r#""pid":null,"started":null"#, "a process (vsock device)"),
        ] {
            let row =
                format!(r#"{{"kind":"process","role":"vsock device","program":"/p","marker":"m",{ids}}}"#);
            let resource: Resource = serde_json::from_str(&row).unwrap();
            assert_eq!(resource.to_string(), name);
            let text = serde_json::to_string(&resource).unwrap();
            assert_eq!(serde_json::from_str::<Resource>(&text).unwrap(), resource);
        }
    }
}
