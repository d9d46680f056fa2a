//! Changing a VM's hardware while it is down.

use std::{fs, path::Path};

use banger_api::{ApiError, ErrorKind, SetVm, Size};

use super::services::Services;
use crate::{error::EngineError, operation::Context, store::VmRecord};

/// Gives the VM of `record` the hardware that is `wanted`, from its next start on.
pub(super) async fn change(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    wanted: SetVm,
) -> Result<(), EngineError> {
    if let Some(size) = wanted.disk_size {
        let VmRecord { name, disk_size, .. } = record;
        if size < *disk_size {
            let message = format!(
                "the work disk of VM {name} has {disk_size} and cannot shrink to {size}: it only grows"
            );
            return Err(ApiError::new(ErrorKind::Invalid, message).into());
        }
        grow(services, record, context, size).await?;
    }
    services.store.set_vm_hardware(&record.id, &wanted)?;
    Ok(())
}

/// Makes the work disk larger. The file system on it is checked first; it grows in the guest, at the next start: there
/// the kernel does it with its journal, so that nothing can break it half-way.
async fn grow(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    size: Size,
) -> Result<(), EngineError> {
    let disk = services.vm_dir(record).work_disk();
    // One that was never started has none yet.
    if size == record.disk_size || !disk.exists() {
        return Ok(());
    }
    context.stage("checking the work disk").await;
    context
        .blocking(move |context| -> Result<(), EngineError> {
            banger_image::check_ext4(&disk, context)?;
            lengthen(&disk, size)
        })
        .await
}

/// What is added takes no room until it is written.
fn lengthen(disk: &Path, size: Size) -> Result<(), EngineError> {
    let file = fs::OpenOptions::new().write(true).open(disk).map_err(EngineError::file("open", disk))?;
    let now = file.metadata().map_err(EngineError::file("look at", disk))?.len();
    if now < size.as_bytes() {
        file.set_len(size.as_bytes()).map_err(EngineError::file("lengthen", disk))?;
    }
    file.sync_all().map_err(EngineError::file("sync", disk))
}
