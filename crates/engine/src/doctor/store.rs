//! Checks of the store, and of the default image and kernel.

use std::path::Path;

use banger_api::{ApiError, Check, Config, ErrorKind, RefError, Remedy, SubjectKind, resolve, resolve_image};
use banger_image::Catalog;

use super::finding::into_check;
use crate::{
    image::find_change,
    store::{ImageRecord, KernelRecord, SignedTimes, Store},
};

/// The contents of the store.
#[derive(Debug, Default)]
pub(super) struct StoreSnapshot {
    exists: bool,
    vms: usize,
    images: Vec<ImageRecord>,
    kernels: Vec<KernelRecord>,
    pub(super) signed_times: SignedTimes,
}

/// Reads the whole store at `path`, without changing anything.
pub(super) fn open(path: &Path) -> Result<StoreSnapshot, ApiError> {
    let Some(store) = Store::open_read_only(path)? else { return Ok(StoreSnapshot::default()) };
    Ok(StoreSnapshot {
        exists: true,
        vms: store.vms()?.len(),
        images: store.images()?,
        kernels: store.kernels()?,
        signed_times: store.signed_times()?,
    })
}

pub(super) fn all(store: &Result<StoreSnapshot, ApiError>, config: &Config, catalog: &Catalog) -> Vec<Check> {
    let contents = match store {
        Ok(contents) => contents,
        Err(error) => return vec![into_check("store", Err(error.clone()))],
    };
    let store = if contents.exists {
        let StoreSnapshot { vms, images, kernels, .. } = contents;
        let message = format!("readable: {vms} VMs, {} images, {} kernels", images.len(), kernels.len());
        Check::pass("store", message)
    } else {
        Check::pass("store", "will be created on first use")
    };
    let image = config.image_name();
    let preferred = resolve_image(&contents.images, image).ok().and_then(|image| image.kernel.as_deref());
    let in_catalog =
        catalog.image(image).and_then(|entry| entry.kernel.as_ref()).map(|kernel| kernel.as_str());
    let kernel = config.kernel_name(preferred.or(in_catalog));
    let mut checks = vec![
        store,
        default(SubjectKind::Image, image, resolve_image(&contents.images, image).map(drop), |name| {
            catalog.image(name).is_some()
        }),
        default(SubjectKind::Kernel, kernel, resolve(&contents.kernels, kernel).map(drop), |name| {
            catalog.kernel(name).is_some()
        }),
    ];
    checks.extend(contents.images.iter().filter_map(registered_file));
    checks
}

/// Warns of a registered image whose file is missing or has changed.
fn registered_file(image: &ImageRecord) -> Option<Check> {
    let file = image.registered_file.as_ref()?;
    let problem = find_change(file)
        .map_or_else(|error| Some(error.to_string()), |problem| problem.map(str::to_owned))?;
    let message = format!("the file of image {} {problem}: {}", image.name, file.path.display());
    let error = ApiError::new(ErrorKind::Io, message).about(SubjectKind::Image, &image.name);
    Some(Check::warn("registered image", error.remedy(Remedy::RestoreRegisteredFile)))
}

/// Checks that the default image or kernel exists locally or in the catalog.
fn default(
    kind: SubjectKind,
    name: &str,
    resolved: Result<(), RefError>,
    in_catalog: impl Fn(&str) -> bool,
) -> Check {
    let title = format!("default {}", kind.as_str());
    match resolved {
        Ok(()) => Check::pass(title, name),
        Err(RefError::NotFound) if in_catalog(name) => {
            Check::pass(title, format!("{name} will be fetched on first use"))
        }
        Err(error) => into_check(&title, Err(ApiError::unresolved(kind, name, error))),
    }
}
