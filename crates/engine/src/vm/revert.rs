//! Releases a VM's host resources, from the journal's records alone. Releasing twice is harmless.

use banger_api::Id;

use super::{marker, process};
use crate::{
    error::EngineError,
    files::remove_dir,
    resource::{ProcessRole, Resource},
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

/// Kills the processes of `vm` with this role, and those that they have started.
pub(super) async fn revert_processes(store: &Store, vm: &Id, role: ProcessRole) -> Result<(), EngineError> {
    for row in store.journal_of(vm, Scope::Run)? {
        if matches!(&row.resource, Resource::Process { role: found, .. } if *found == role) {
            release(&row.resource).await?;
            store.delete_journal_row(&row)?;
        }
    }
    Ok(())
}

/// Releases one resource. Succeeds if it is gone already.
async fn release(resource: &Resource) -> Result<(), EngineError> {
    match resource {
        Resource::Directory { path } => remove_dir(path),
        Resource::Process { role, marker, id, .. } => {
            if let Some(id) = id
                && let Some(process) = process::adopt(id)?
            {
                match role {
                    // It writes what the guest did last.
                    ProcessRole::Gateway => process.end().await?,
                    _ => process.kill().await?,
                }
            }
            // pasta has started a process itself, which ends with it, but not at once.
            if id.is_none() || *role == ProcessRole::Pasta {
                marker::kill(marker).await?;
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

    #[tokio::test]
    async fn releasing_a_resource_twice_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("disk"), "x").unwrap();
        let marker = format!("{}#{}", path.display(), std::process::id());
        let mut sleep = std::process::Command::new("/bin/sleep");
        let child = sleep.arg("1000").env(marker::VARIABLE, &marker).spawn().unwrap();
        let process = |id| Resource::Process {
            role: ProcessRole::Vmm,
            program: "/bin/sleep".into(),
            marker: marker.clone(),
            id,
        };
        let (named, unnamed) = (process(process::identify(child.id()).unwrap()), process(None));
        for resource in [&Resource::Directory { path: path.clone() }, &unnamed, &named] {
            release(resource).await.unwrap();
            release(resource).await.unwrap();
        }
        assert!(!path.exists());
        assert_eq!(process::identify(child.id()).unwrap(), None);
    }
}
