//! What a VM takes from the host, and how it is given back: from the journal's row alone, any number of times.

use std::{fmt, fs, io, path::PathBuf};

use banger_api::Id;
use serde::{Deserialize, Serialize};

use super::process;
use crate::{
    error::EngineError,
    store::{Scope, Step, Store},
};

/// One thing taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Resource {
    /// A folder of ours with all that is in it.
    Folder { path: PathBuf },
    /// A process. Until it has been started there is no pid: it is then found by its program and by `marker`, the
    /// VM's id, which is in its arguments.
    Process { role: String, program: PathBuf, marker: String, pid: Option<u32>, started: Option<u64> },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path } => write!(f, "folder {}", path.display()),
            Self::Process { role, pid: Some(pid), .. } => write!(f, "process {pid} ({role})"),
            Self::Process { role, .. } => write!(f, "a process ({role})"),
        }
    }
}

impl Resource {
    /// The step in which it is written down, before it is taken.
    pub(crate) fn journalled(&self) -> Step {
        match self {
            Self::Folder { .. } => Step::JournalFolder,
            Self::Process { .. } => Step::JournalProcess,
        }
    }

    /// The step in which it is struck, once it has been given back.
    pub(crate) fn struck(&self) -> Step {
        match self {
            Self::Folder { .. } => Step::JournalStrikeFolder,
            Self::Process { .. } => Step::JournalStrikeProcess,
        }
    }

    /// Gives it back. What is gone already is given back.
    async fn revert(&self) -> Result<(), EngineError> {
        match self {
            Self::Folder { path } => match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(EngineError::file("remove", path)(error))
                }
                _ => Ok(()),
            },
            Self::Process { role, pid: Some(pid), started: Some(started), .. } => {
                match process::adopt(role, *pid, *started)? {
                    Some(process) => process.kill().await,
                    None => Ok(()),
                }
            }
            Self::Process { role, program, marker, .. } => {
                for pid in process::find(program, marker) {
                    if let Some(process) = process::open(role, pid)? {
                        process.kill().await?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Gives back what `vm` holds in `scope`, the last taken first. What cannot be given back stays in the journal; the
/// first such error is returned, all are logged.
pub(crate) async fn revert(store: &Store, vm: &Id, scope: Scope) -> Result<(), EngineError> {
    let mut first = None;
    for row in store.journal_of(vm, scope)? {
        match row.resource.revert().await {
            Ok(()) => store.strike_journal(&row)?,
            Err(error) => {
                tracing::error!(%vm, resource = ?row.resource, %error, "not given back");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
#[allow(clippy::zombie_processes)] // children are waited for through their pidfds
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_resource_is_given_back_twice_without_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("disk"), "x").unwrap();
        let program = fs::canonicalize("/bin/sleep").unwrap();
        let marker = format!("1000.7{}", std::process::id());
        let child = std::process::Command::new(&program).arg(&marker).spawn().unwrap();
        let started = process::start_time(child.id());
        let named = Resource::Process {
            role: "vmm".into(),
            program: program.clone(),
            marker: marker.clone(),
            pid: Some(child.id()),
            started,
        };
        let unnamed = Resource::Process { role: "vmm".into(), program, marker, pid: None, started: None };
        for resource in [&Resource::Folder { path: path.clone() }, &unnamed, &named] {
            resource.revert().await.unwrap();
            resource.revert().await.unwrap();
        }
        assert!(!path.exists());
        assert_eq!(process::start_time(child.id()), None);
    }
}
