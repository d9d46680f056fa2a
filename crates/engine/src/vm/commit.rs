//! Making an image of what is on the disks of a VM that is down. Its owner does it, so that it is not started meanwhile.

use std::sync::Arc;

use banger_api::{ApiError, CommitVm, ErrorKind};
use banger_image::{Disks, RootfsOptions};
use tokio::sync::mpsc;

use crate::{
    error::EngineError,
    host::Host,
    operation::Context,
    staged::{ROOTFS, seal},
    store::{ImageRecord, VmRecord},
};

/// Makes the image and tells it.
pub(super) async fn commit(
    host: &Arc<Host>,
    record: &VmRecord,
    context: &Context,
    wanted: CommitVm,
    tell: mpsc::UnboundedSender<ImageRecord>,
) -> Result<(), EngineError> {
    let folder = host.dirs.vm(record.id.as_str());
    let overlay = folder.join("overlay.ext4");
    if !overlay.exists() {
        let message =
            format!("VM {} has never been started: it is as its image {}", record.name, record.image);
        let hint = format!("for another name of that: banger image tag {} {}", record.image, wanted.name);
        return Err(ApiError::new(ErrorKind::Invalid, message).hint(hint).into());
    }
    let images = host.store.images()?;
    let base = images.into_iter().find(|image| image.id == record.image_id);
    let base =
        base.ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("image {} is gone", record.image)))?;
    host.usable(&base)?;
    let staged = host.stage_image(&wanted.name, wanted.build_key.is_some())?;
    let disks = Disks {
        base: host.image_dir(&base.id).join(ROOTFS),
        overlay,
        home: wanted.with_home.then(|| folder.join("work.ext4")),
    };
    let out = staged.rootfs();
    let info = context
        .blocking(move |context| -> Result<_, EngineError> {
            let info = banger_image::commit_rootfs(&disks, &out, &RootfsOptions::default(), context)?;
            seal(&out)?;
            Ok(info)
        })
        .await?;
    context.check()?;
    let image = ImageRecord {
        name: wanted.name,
        size: banger_api::Size::bytes(info.size),
        entries: info.entries,
        os: info.os,
        init: info.init,
        source: if wanted.build_key.is_some() { "build" } else { "commit" }.to_owned(),
        reference: None,
        digest: None,
        outside: None,
        build_key: wanted.build_key,
        ..base
    };
    // Whoever asked may have gone; the image is there.
    let _ = tell.send(host.publish_staged(staged, image)?);
    Ok(())
}
