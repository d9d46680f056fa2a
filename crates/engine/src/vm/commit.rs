//! Creates an image from the disks of a VM that is down. The VM's actor does it, so that the VM cannot start meanwhile.

use banger_api::{ApiError, CommitVm, ErrorKind, ImageSource, Remedy, Size, SubjectKind};
use banger_image::{Disks, RootfsOptions};
use jiff::Timestamp;

use super::services::Services;
use crate::{
    error::EngineError,
    files::seal,
    image::staged_dir,
    operation::Context,
    store::{ImageRecord, VmRecord},
};

/// Creates the image and returns it.
pub(super) async fn commit(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    options: CommitVm,
) -> Result<ImageRecord, EngineError> {
    let dir = services.vm_dir(record);
    if !dir.overlay().exists() {
        let message = format!(
            "VM {} has never been started; its content is that of image {}",
            record.name, record.image
        );
        let remedy = Remedy::TagImage { image: record.image.clone(), name: options.name.to_string() };
        let error = ApiError::new(ErrorKind::Invalid, message).about(SubjectKind::Vm, &record.name);
        return Err(error.remedy(remedy).into());
    }
    let images = services.store.images()?;
    let base = images.into_iter().find(|image| image.id == record.image_id);
    let base =
        base.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("image {} is gone", record.image)))?;
    services.images.check_usable(&base)?;
    let slot = services.images.slot_for(&options.name, options.build_key.is_some())?;
    let staged = services.images.stage()?;
    let disks = Disks {
        base: services.images.dir(&base.id).rootfs(),
        overlay: dir.overlay(),
        home: options.with_home.then(|| dir.work_disk()),
    };
    let out = staged_dir(&staged).rootfs();
    let info = context
        .blocking(move |context| -> Result<_, EngineError> {
            let info = banger_image::commit_rootfs(&disks, &out, &RootfsOptions::default(), context)?;
            seal(&out)?;
            Ok(info)
        })
        .await?;
    context.check()?;
    let image = ImageRecord {
        name: options.name,
        size: Size::bytes(info.size),
        entries: info.entries,
        os: info.os,
        init: info.init,
        source: if options.build_key.is_some() { ImageSource::Build } else { ImageSource::Commit },
        created_at: Timestamp::now(),
        reference: None,
        digest: None,
        registered_file: None,
        build_key: options.build_key,
        ..base
    };
    services.images.publish_in(slot, staged, image)
}
