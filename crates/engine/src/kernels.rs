//! Kernels: imported, pulled, listed, deleted; and the boot initrds made of them.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use banger_api::{
    ApiError, Driver, DriverPresence, ErrorKind, Id, Kernel, KernelDetails, Name, Size, resolve,
};
use banger_image::{Bus, Catalog, KernelInfo, Presence, Progress};
use banger_vmm::VmmKind;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    admission,
    error::EngineError,
    host::{Host, no_such, unresolved},
    images::{Unfinished, disk_usage, durable, in_use, remove, taken, used_by},
    operation::Context,
    random_id,
    spans::now_ns,
    store::{KernelRecord, VmRecord},
};

impl Host {
    /// The kernel that `reference` names, pulled first when only the catalog has it.
    pub(crate) async fn find_kernel(
        self: &Arc<Self>,
        reference: &str,
        context: &Context,
    ) -> Result<KernelRecord, EngineError> {
        let kernels = self.store.kernels()?;
        match resolve(&kernels, reference) {
            Ok(kernel) => Ok(kernel.clone()),
            Err(banger_api::RefError::NotFound) => {
                let catalog =
                    self.catalog_with(|catalog| catalog.kernel(reference).is_some(), context).await?;
                let Some(entry) = catalog.kernel(reference) else {
                    return Err(no_such("kernel", reference).into());
                };
                context.note(format!("kernel {reference} is not here yet: it is fetched now, once")).await;
                self.pull_kernel(entry.name.clone(), context).await
            }
            Err(error) => Err(unresolved("kernel", reference, error).into()),
        }
    }

    /// Gets the catalog's kernel `name`. Two who ask at once share one fetch.
    pub(crate) async fn pull_kernel(
        self: &Arc<Self>,
        name: Name,
        context: &Context,
    ) -> Result<KernelRecord, EngineError> {
        let _one_at_a_time =
            context.unless_cancelled(async { Ok(self.publishing_kernels.lock().await) }).await?;
        if let Some(kernel) = self.store.kernels()?.into_iter().find(|kernel| kernel.name == name) {
            return Ok(kernel);
        }
        let catalog = self.catalog_with(|catalog| catalog.kernel(name.as_str()).is_some(), context).await?;
        let Some(entry) = catalog.kernel(name.as_str()).cloned() else {
            return Err(not_in_catalog(&catalog, &name).into());
        };
        admission::space(&self.dirs.state, "the kernel", Size::mib(entry.space_mib))?;
        let registries = self.registries(Vec::new())?;
        self.publish_kernel(name, Some("catalog"), context, move |work, dest, progress| {
            banger_image::fetch_kernel(&entry, &registries, work, dest, progress)
        })
        .await
    }

    /// Makes kernel `name` of a package, a kernel, or a tar of such.
    pub(crate) async fn import_kernel(
        self: &Arc<Self>,
        name: Name,
        input: impl Read + Send + 'static,
        context: &Context,
    ) -> Result<KernelRecord, EngineError> {
        if self.store.kernels()?.iter().any(|kernel| kernel.name == name) {
            return Err(taken("kernel", name.as_str()).into());
        }
        admission::space(&self.dirs.state, "the kernel", Size::bytes(0))?;
        self.publish_kernel(name, None, context, move |_, dest, progress| {
            banger_image::import_kernel(input, dest, progress)
        })
        .await
    }

    /// Publishes what `make` puts into a folder, from `source` or else from what it came in.
    async fn publish_kernel(
        self: &Arc<Self>,
        name: Name,
        source: Option<&str>,
        context: &Context,
        make: impl FnOnce(&Path, &Path, &dyn Progress) -> Result<KernelInfo, banger_image::ImageError>
        + Send
        + 'static,
    ) -> Result<KernelRecord, EngineError> {
        let id = random_id();
        let folder = self.kernel_dir(&id);
        crate::dirs::private(&folder)?;
        let unfinished = Unfinished(Some(folder.clone()));
        let info = context
            .blocking(move |context| -> Result<KernelInfo, EngineError> {
                let work = folder.with_extension("work");
                crate::dirs::private(&work)?;
                let _work = Unfinished(Some(work.clone()));
                let info = make(&work, &folder, context)?;
                durable(&folder.join("vmlinux"))?;
                durable(&folder)?;
                Ok(info)
            })
            .await?;
        context.check()?;
        let kernel = KernelRecord {
            id,
            name,
            release: info.release,
            modules: info.modules,
            pvh: info.pvh,
            source: source.unwrap_or(info.source).to_owned(),
            created_at: Timestamp::now(),
        };
        self.store.insert_kernel(&kernel)?;
        unfinished.keep();
        Ok(kernel)
    }

    /// Forgets a kernel that no VM uses.
    pub(crate) fn delete_kernel(&self, reference: &str) -> Result<(), EngineError> {
        let kernels = self.store.kernels()?;
        let kernel = resolve(&kernels, reference).map_err(|error| unresolved("kernel", reference, error))?;
        if !self.store.delete_kernel(&kernel.id)? {
            let users = used_by(&self.store.vms()?, |vm| vm.kernel_id == kernel.id);
            return Err(in_use("kernel", kernel.name.as_str(), &users).into());
        }
        self.initrds.forget(self, &kernel.id);
        remove(&self.kernel_dir(&kernel.id))
    }

    /// A kernel as the API tells it.
    pub(crate) fn show_kernel(&self, kernel: &KernelRecord, vms: &[VmRecord]) -> Kernel {
        Kernel {
            id: kernel.id.clone(),
            name: kernel.name.clone(),
            release: kernel.release.clone(),
            modules: kernel.modules,
            pvh: kernel.pvh,
            disk_usage: disk_usage(&self.kernel_dir(&kernel.id)),
            source: kernel.source.clone(),
            created_at: kernel.created_at,
            used_by: used_by(vms, |vm| vm.kernel_id == kernel.id),
            details: None,
        }
    }

    /// Refuses to start `vmm` with a kernel that would not boot there, rather than to wait for it.
    pub(crate) async fn check_boots(
        &self,
        id: &Id,
        vmm: VmmKind,
        context: &Context,
    ) -> Result<(), EngineError> {
        let kernel = self.store.kernels()?.into_iter().find(|kernel| kernel.id == *id);
        let Some(kernel) = kernel else { return Err(no_such("kernel", id.as_str()).into()) };
        let (bus, option) = match vmm {
            VmmKind::Firecracker => (Bus::Mmio, "CONFIG_VIRTIO_MMIO"),
            VmmKind::Qemu => (Bus::Pci, "CONFIG_VIRTIO_PCI"),
        };
        let folder = self.kernel_dir(id);
        let finds = context.blocking(move |_| banger_image::kernel_finds(&folder, bus)).await?;
        let lacks = match vmm {
            _ if !finds => option,
            VmmKind::Qemu if !kernel.pvh => "CONFIG_PVH",
            _ => return Ok(()),
        };
        let text = format!("{vmm} cannot boot kernel {}: it was built without {lacks}", kernel.name);
        Err(ApiError::new(ErrorKind::Invalid, text)
            .hint("choose another with --kernel; `banger kernel show` tells what boots one")
            .into())
    }

    /// What a kernel brings, by its files.
    pub(crate) fn kernel_details(&self, kernel: &KernelRecord) -> Result<KernelDetails, EngineError> {
        let details = banger_image::kernel_details(&self.kernel_dir(&kernel.id))?;
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
        let others = details.others.iter().map(|(name, presence)| driver(name, *presence, false));
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
    let names: Vec<_> = catalog.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
    ApiError::new(ErrorKind::NotFound, format!("the catalog has no kernel {name}"))
        .hint(format!("it has {}; others come by `banger kernel import`", names.join(", ")))
}

/// The boot initrds: one for each kernel and build of the agent, made when first needed.
#[derive(Debug, Default)]
pub(crate) struct Initrds {
    /// Digest of the agent that is installed. It changes only with a new build, and that restarts the daemon.
    agent: OnceCell<String>,
    making: Mutex<()>,
}

impl Initrds {
    /// The initrd of kernel `kernel`.
    pub(crate) async fn ensure(
        &self,
        host: &Host,
        kernel: &Id,
        context: &Context,
    ) -> Result<PathBuf, EngineError> {
        let began = now_ns();
        let digest = self.agent(host, context).await?;
        let folder = host.dirs.cache.join("initrds");
        let path = folder.join(format!("{kernel}-{digest}.cpio"));
        if !path.exists() {
            let _one_at_a_time = self.making.lock().await;
            if !path.exists() {
                crate::dirs::private(&folder)?;
                let (kernel, agent, out) =
                    (host.kernel_dir(kernel), host.programs.agent.clone(), path.clone());
                context.blocking(move |_| banger_image::build_initrd(&kernel, &agent, &out)).await?;
            }
        }
        context.spans.end("initrd", began);
        Ok(path)
    }

    /// The digest of the agent, by which its initrds are told from those of other builds.
    pub(crate) async fn agent(&self, host: &Host, context: &Context) -> Result<&String, EngineError> {
        let agent = host.programs.agent.clone();
        self.agent.get_or_try_init(|| context.blocking(move |_| digest(&agent))).await
    }

    /// Removes what was made of a kernel that is gone.
    fn forget(&self, host: &Host, kernel: &Id) {
        let entries = fs::read_dir(host.dirs.cache.join("initrds")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kernel.as_str()))
        {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "not removed");
            }
        }
    }
}

/// The first 8 bytes of a file's SHA-256, in hexadecimal: enough to tell builds apart.
fn digest(path: &Path) -> Result<String, EngineError> {
    let unreadable = |source: io::Error| {
        EngineError::from(
            ApiError::new(ErrorKind::MissingProgram, format!("cannot read the guest agent {}: {source}", path.display()))
                .hint("banger-agent belongs in the folder of bangerd; build it with `cargo xtask build`, or reinstall"),
        )
    };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut part).map_err(unreadable)? {
            0 => break,
            count => hash.update(part.get(..count).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
