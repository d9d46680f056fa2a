//! Changes a VM's hardware while the VM is down, and its egress policy at any time.

use std::{fs, path::Path};

use banger_api::{ApiError, Egress, ErrorKind, SetVm, Size};

use super::{network, services::Services};
use crate::{
    error::EngineError,
    operation::Context,
    store::{USER_NETWORK, VmRecord},
};

/// Sets the hardware of the VM of `record`, effective at its next start.
pub(super) async fn change(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    changes: SetVm,
) -> Result<(), EngineError> {
    if let Some(size) = changes.disk_size {
        let VmRecord { name, disk_size, .. } = record;
        if size < *disk_size {
            let message = format!("the work disk of VM {name} has {disk_size} and cannot shrink to {size}");
            return Err(ApiError::new(ErrorKind::Invalid, message).into());
        }
        grow(services, record, context, size).await?;
    }
    services.store.set_vm_hardware(&record.id, &changes)?;
    Ok(())
}

/// Sets the egress policy. In a running VM, open connections are judged by the new policy, too.
pub(super) async fn set_egress(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    egress: Egress,
) -> Result<(), EngineError> {
    if let Some(handle) = &record.handle {
        match &handle.sockets {
            Some(sockets) if handle.network == USER_NETWORK => {
                let (sockets, name) = (sockets.clone(), record.name.to_string());
                let (old, new) = (record.egress.clone(), egress.clone());
                let allow_host = record.allow_host.clone();
                let apply = move |_: &Context| {
                    let applied = network::set_egress(&sockets, &allow_host, &old, &new);
                    applied.map_err(|source| EngineError::NetworkChange { name, source })
                };
                context.blocking(apply).await?;
            }
            // It has none, has lost it, or an earlier build has started it.
            _ => {
                context.note(format!("the policy of VM {} applies from its next start on", record.name)).await
            }
        }
    }
    let changes = SetVm { egress: Some(egress), ..SetVm::default() };
    services.store.set_vm_hardware(&record.id, &changes)?;
    Ok(())
}

/// Enlarges the work disk after checking its file system. The guest grows the file system at the next start: its
/// kernel uses the journal, so an interruption cannot damage it.
async fn grow(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    size: Size,
) -> Result<(), EngineError> {
    let disk = services.vm_dir(record).work_disk();
    // A VM that was never started has no disk yet.
    if size == record.disk_size || !disk.exists() {
        return Ok(());
    }
    context.stage("checking the work disk").await;
    context
        .blocking(move |context| -> Result<(), EngineError> {
            banger_image::check_ext4(&disk, context)?;
            extend(&disk, size)
        })
        .await
}

/// Extends the file. The new part is sparse: it uses no space until it is written.
fn extend(disk: &Path, size: Size) -> Result<(), EngineError> {
    let file = fs::OpenOptions::new().write(true).open(disk).map_err(EngineError::file("open", disk))?;
    let current = file.metadata().map_err(EngineError::file("stat", disk))?.len();
    if current < size.as_bytes() {
        file.set_len(size.as_bytes()).map_err(EngineError::file("extend", disk))?;
    }
    file.sync_all().map_err(EngineError::file("sync", disk))
}
