//! Releases a VM's host resources, from the journal's records alone. Releasing twice is harmless.

use banger_api::Id;

use super::process;
use crate::{
    error::EngineError,
    files::remove_dir,
    resource::Resource,
    store::{Scope, Store},
};

/// Releases the resources of `vm` in `scope`, the last acquired first. A resource that cannot be released stays in
/// the journal. All such errors are logged, and the first one is returned.
pub(crate) async fn revert(store: &Store, vm: &Id, scope: Scope) -> Result<(), EngineError> {
    let mut first = None;
    for row in store.journal_of(vm, scope)? {
        match release(&row.resource).await {
            Ok(()) => store.delete_journal_row(&row)?,
            Err(error) => {
                tracing::error!(%vm, resource = ?row.resource, %error, "cannot release a resource");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Releases one resource. Succeeds if it is gone already.
async fn release(resource: &Resource) -> Result<(), EngineError> {
    match resource {
        Resource::Directory { path } => remove_dir(path),
        Resource::Process { pid: Some(pid), started: Some(started), .. } => {
            match process::adopt(*pid, *started)? {
                Some(process) => process.kill().await,
                None => Ok(()),
            }
        }
        Resource::Process { program, marker, .. } => {
            for pid in process::find(program, marker) {
                if let Some(process) = process::open(pid)? {
                    process.kill().await?;
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
#[allow(clippy::zombie_processes)] // children are waited for through their pidfds
mod tests {
    use std::fs;

    use super::*;
    use crate::resource::ProcessRole;

    #[tokio::test]
    async fn releasing_a_resource_twice_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("disk"), "x").unwrap();
        let program = fs::canonicalize("/bin/sleep").unwrap();
        let marker = format!("1000.7{}", std::process::id());
        let child = std::process::Command::new(&program).arg(&marker).spawn().unwrap();
        let started = process::start_time(child.id());
        let named = Resource::Process {
            role: ProcessRole::Vmm,
            program: program.clone(),
            marker: marker.clone(),
            pid: Some(child.id()),
            started,
        };
        let unnamed = Resource::Process { role: ProcessRole::Vmm, program, marker, pid: None, started: None };
        for resource in [&Resource::Directory { path: path.clone() }, &unnamed, &named] {
            release(resource).await.unwrap();
            release(resource).await.unwrap();
        }
        assert!(!path.exists());
        assert_eq!(process::start_time(child.id()), None);
    }
}
