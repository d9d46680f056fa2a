//! The kernel service: finds, imports, pulls, lists and deletes kernels.

use std::{io::Read, path::Path, sync::Arc};

use banger_api::{
    ApiError, AvailableKernel, Dirs, Driver, DriverPresence, ErrorKind, Id, Kernel, KernelDetails, Name,
    OperationKind, RefError, Remedy, Size, SubjectKind, resolve,
};
use banger_image::{Bus, Catalog, ImageError, KernelInfo, Presence, Progress};
use banger_vmm::VmmKind;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::initrds::Initrds;
use crate::{
    admission,
    api_errors::{already_exists, in_use, used_by},
    catalog::Catalogs,
    config::ConfigFiles,
    error::EngineError,
    files::{disk_usage, remove_dir, sync_tree},
    layout::KernelDir,
    operation::{Context, Events, OnDisconnect, Operations},
    publish::{RemovedOnDrop, Staged},
    remote::registries,
    spans::now_ns,
    store::{KernelRecord, Store, StoreError, VmRecord},
};

/// The kernel service.
#[derive(Debug)]
pub struct Kernels {
    dirs: Arc<Dirs>,
    store: Arc<Store>,
    config: Arc<ConfigFiles>,
    catalogs: Arc<Catalogs>,
    operations: Operations,
    initrds: Arc<Initrds>,
    /// Held while a kernel is fetched, so that concurrent requests do not fetch it twice.
    publishing: Mutex<()>,
}

impl Kernels {
    pub(crate) fn new(
        dirs: Arc<Dirs>,
        store: Arc<Store>,
        config: Arc<ConfigFiles>,
        catalogs: Arc<Catalogs>,
        operations: Operations,
        initrds: Arc<Initrds>,
    ) -> Self {
        Self { dirs, store, config, catalogs, operations, initrds, publishing: Mutex::default() }
    }

    /// Returns all kernels, sorted by name.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn list(&self) -> Result<Vec<Kernel>, ApiError> {
        let vms = self.store.vms()?;
        Ok(self.store.kernels()?.iter().map(|kernel| self.describe(kernel, &vms)).collect())
    }

    /// Returns the catalog's kernels, in the catalog's order.
    ///
    /// # Errors
    /// Returns an error if a catalog file is broken, or the store cannot be read.
    pub fn available(&self) -> Result<Vec<AvailableKernel>, ApiError> {
        let kernels = self.store.kernels()?;
        let is_local = |name: &str| kernels.iter().any(|kernel| kernel.name.as_str() == name);
        let catalog = self.catalogs.all()?;
        let available = catalog.kernels.iter().map(|entry| AvailableKernel {
            name: entry.name.to_string(),
            description: entry.description.to_string(),
            size: Size::mib(entry.space_mib),
            source: entry.source.to_string(),
            local: is_local(entry.name.as_str()),
        });
        Ok(available.collect())
    }

    /// Returns the kernel that `reference` names, with details read from its files.
    ///
    /// # Errors
    /// Returns an error if no kernel or several match, or its files cannot be read.
    pub fn show(&self, reference: &str) -> Result<Kernel, ApiError> {
        let kernels = self.store.kernels()?;
        let kernel = resolve(&kernels, reference)
            .map_err(|error| ApiError::unresolved(SubjectKind::Kernel, reference, error))?;
        let details = Some(self.details(kernel)?);
        Ok(Kernel { details, ..self.describe(kernel, &self.store.vms()?) })
    }

    /// Creates a kernel from a package, a kernel file, or a tar of these.
    pub fn import(self: &Arc<Self>, name: Name, input: impl Read + Send + 'static) -> Events {
        let target = name.to_string();
        self.operation(OperationKind::KernelImport, &target, move |kernels, context| async move {
            kernels.import_from(name, input, &context).await
        })
    }

    /// Pulls a kernel from the catalog.
    pub fn pull(self: &Arc<Self>, name: Name) -> Events {
        let target = name.to_string();
        self.operation(OperationKind::KernelPull, &target, move |kernels, context| async move {
            kernels.fetch(name, &context).await
        })
    }

    fn operation<W>(
        self: &Arc<Self>,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Self>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<KernelRecord, EngineError>> + Send + 'static,
    {
        let kernels = self.clone();
        let work = |context| async move { Ok(kernels.describe(&work(kernels.clone(), context).await?, &[])) };
        self.operations.start(kind, target, OnDisconnect::Cancel, work)
    }

    /// Deletes a kernel that no VM uses.
    ///
    /// # Errors
    /// Returns an error if there is no such kernel, or it is in use.
    pub fn delete(&self, reference: &str) -> Result<(), ApiError> {
        let kernels = self.store.kernels()?;
        let kernel = resolve(&kernels, reference)
            .map_err(|error| ApiError::unresolved(SubjectKind::Kernel, reference, error))?;
        if !self.store.delete_kernel(&kernel.id)? {
            let users = used_by(&self.store.vms()?, |vm| vm.kernel_id == kernel.id);
            return Err(in_use(SubjectKind::Kernel, kernel.name.as_str(), users));
        }
        self.initrds.remove(&kernel.id);
        Ok(remove_dir(self.dir(&kernel.id).path())?)
    }

    pub(crate) fn dir(&self, id: &Id) -> KernelDir {
        KernelDir::new(&self.dirs, id)
    }

    /// Returns the kernel that `reference` names; pulls it first if only the catalog has it.
    pub(crate) async fn find_or_fetch(
        &self,
        reference: &str,
        context: &Context,
    ) -> Result<KernelRecord, EngineError> {
        let kernels = self.store.kernels()?;
        match resolve(&kernels, reference) {
            Ok(kernel) => Ok(kernel.clone()),
            Err(error @ RefError::NotFound) => {
                let catalog =
                    self.catalogs.for_lookup(|catalog| catalog.kernel(reference).is_some(), context).await?;
                let Some(entry) = catalog.kernel(reference) else {
                    return Err(ApiError::unresolved(SubjectKind::Kernel, reference, error).into());
                };
                context.note(format!("kernel {reference} is not in the store yet: fetching it")).await;
                let began = now_ns();
                let fetched = self.fetch(entry.name.clone(), context).await;
                context.spans.end("fetch kernel", began);
                fetched
            }
            Err(error) => Err(ApiError::unresolved(SubjectKind::Kernel, reference, error).into()),
        }
    }

    /// Fetches the catalog's kernel `name`. Concurrent requests share one fetch.
    async fn fetch(&self, name: Name, context: &Context) -> Result<KernelRecord, EngineError> {
        let _one_at_a_time = context.unless_cancelled(async { Ok(self.publishing.lock().await) }).await?;
        if let Some(kernel) = self.store.kernels()?.into_iter().find(|kernel| kernel.name == name) {
            return Ok(kernel);
        }
        let catalog =
            self.catalogs.for_lookup(|catalog| catalog.kernel(name.as_str()).is_some(), context).await?;
        let Some(entry) = catalog.kernel(name.as_str()).cloned() else {
            return Err(not_in_catalog(&catalog, &name).into());
        };
        admission::check_space(&self.dirs.state, "the kernel", Size::mib(entry.space_mib))?;
        let registries = registries(&*self.config.current()?, Vec::new());
        self.publish(name, Some("catalog"), context, move |work, dest, progress| {
            banger_image::fetch_kernel(&entry, &registries, work, dest, progress)
        })
        .await
    }

    /// Creates kernel `name` from a package, a kernel file, or a tar of these.
    async fn import_from(
        &self,
        name: Name,
        input: impl Read + Send + 'static,
        context: &Context,
    ) -> Result<KernelRecord, EngineError> {
        if self.store.kernels()?.iter().any(|kernel| kernel.name == name) {
            return Err(already_exists(SubjectKind::Kernel, name.as_str()).into());
        }
        admission::check_space(&self.dirs.state, "the kernel", Size::bytes(0))?;
        self.publish(name, None, context, move |_, dest, progress| {
            banger_image::import_kernel(input, dest, progress)
        })
        .await
    }

    /// Publishes the files that `write_files` writes. The recorded source is `source`, else the input's format.
    async fn publish(
        &self,
        name: Name,
        source: Option<&str>,
        context: &Context,
        write_files: impl FnOnce(&Path, &Path, &dyn Progress) -> Result<KernelInfo, ImageError> + Send + 'static,
    ) -> Result<KernelRecord, EngineError> {
        let staged = Staged::create(self.dirs.state.join("kernels"))?;
        let dir = KernelDir::from_path(staged.path().to_owned());
        let info = context
            .blocking(move |context| -> Result<KernelInfo, EngineError> {
                let work = RemovedOnDrop::create(dir.path().with_extension("work"))?;
                let info = write_files(work.path(), dir.path(), context)?;
                sync_tree(dir.path())?;
                Ok(info)
            })
            .await?;
        context.check()?;
        let kernel = KernelRecord {
            id: staged.id().clone(),
            name,
            release: info.release,
            modules: info.modules,
            pvh: info.pvh,
            source: source.unwrap_or(info.source).to_owned(),
            created_at: Timestamp::now(),
        };
        match staged.publish(|| self.store.insert_kernel(&kernel)) {
            Err(EngineError::Store(StoreError::NameTaken(name))) => {
                Err(already_exists(SubjectKind::Kernel, &name).into())
            }
            result => result.map(|()| kernel),
        }
    }

    /// Returns a kernel as the API shows it.
    fn describe(&self, kernel: &KernelRecord, vms: &[VmRecord]) -> Kernel {
        Kernel {
            id: kernel.id.clone(),
            name: kernel.name.clone(),
            release: kernel.release.clone(),
            modules: kernel.modules,
            pvh: kernel.pvh,
            disk_usage: disk_usage(self.dir(&kernel.id).path()),
            source: kernel.source.clone(),
            created_at: kernel.created_at,
            used_by: used_by(vms, |vm| vm.kernel_id == kernel.id),
            details: None,
        }
    }

    /// Returns an error if `vmm` cannot boot the kernel, instead of waiting for a start to time out.
    pub(crate) async fn check_boots(
        &self,
        id: &Id,
        vmm: VmmKind,
        context: &Context,
    ) -> Result<(), EngineError> {
        let kernel = self.store.kernels()?.into_iter().find(|kernel| kernel.id == *id);
        let Some(kernel) = kernel else {
            return Err(ApiError::unresolved(SubjectKind::Kernel, id.as_str(), RefError::NotFound).into());
        };
        let (bus, option) = match vmm {
            VmmKind::Firecracker => (Bus::Mmio, "CONFIG_VIRTIO_MMIO"),
            VmmKind::Qemu => (Bus::Pci, "CONFIG_VIRTIO_PCI"),
        };
        let dir = self.dir(id);
        let has_bus = context.blocking(move |_| banger_image::kernel_supports_bus(dir.path(), bus)).await?;
        let missing = match vmm {
            _ if !has_bus => option,
            VmmKind::Qemu if !kernel.pvh => "CONFIG_PVH",
            _ => return Ok(()),
        };
        let text = format!("{vmm} cannot boot kernel {}: it was built without {missing}", kernel.name);
        Err(ApiError::new(ErrorKind::Invalid, text)
            .about(SubjectKind::Kernel, &kernel.name)
            .remedy(Remedy::ChooseKernel)
            .into())
    }

    /// Reads a kernel's details from its files.
    fn details(&self, kernel: &KernelRecord) -> Result<KernelDetails, EngineError> {
        let details = banger_image::kernel_details(self.dir(&kernel.id).path())?;
        let driver = |name: &str, presence: Option<Presence>, boot| Driver {
            name: name.to_owned(),
            presence: match presence {
                Some(Presence::BuiltIn) => DriverPresence::BuiltIn,
                Some(Presence::Module) => DriverPresence::Module,
                Some(Presence::Absent) => DriverPresence::Missing,
                None => DriverPresence::Unknown,
            },
            boot,
        };
        let boot = details.boot.iter().map(|(name, presence)| driver(name, Some(*presence), true));
        let others = details.other_features.iter().map(|(name, presence)| driver(name, *presence, false));
        Ok(KernelDetails {
            vmlinux: Size::bytes(details.size),
            modules: details.modules,
            firecracker: details.firecracker,
            qemu: details.qemu,
            drivers: boot.chain(others).collect(),
        })
    }
}

fn not_in_catalog(catalog: &Catalog, name: &Name) -> ApiError {
    let kernels = catalog.kernels.iter().map(|kernel| kernel.name.to_string()).collect();
    ApiError::new(ErrorKind::NotFound, format!("the catalog has no kernel {name}"))
        .about(SubjectKind::Kernel, name)
        .remedy(Remedy::PullKernel { kernels })
}
