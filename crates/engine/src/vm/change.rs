//! Changes a VM's hardware while the VM is down.

use std::{fs, path::Path};

use banger_api::{ApiError, ErrorKind, SetVm, Size};

use super::services::Services;
use crate::{error::EngineError, operation::Context, store::VmRecord};

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
