//! What every part of the engine works on: folders, configuration, store, programs, and the VMs' owners.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use banger_api::{ApiError, Config, Dirs, ErrorKind, Id, RefError, resolve};
use banger_image::Catalog;
use tokio::sync::mpsc;

use crate::{
    catalog::CatalogFiles,
    config::ConfigFiles,
    kernels::Initrds,
    operation::Operations,
    pull::Pulls,
    stats::Samples,
    store::{Store, VmRecord},
    uses::Uses,
    vm::{Actor, Message},
    vmms::Vmms,
};

/// The programs of ours that the engine runs or hands out.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon itself: it keeps consoles and probes KVM, each in a process of its own.
    pub bangerd: PathBuf,
    /// The static program for the guests.
    pub agent: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) dirs: Dirs,
    pub(crate) config: Arc<ConfigFiles>,
    pub(crate) catalog: CatalogFiles,
    pub(crate) store: Store,
    pub(crate) programs: Programs,
    pub(crate) vmms: Vmms,
    pub(crate) operations: Operations,
    pub(crate) initrds: Initrds,
    /// Held while the catalogs at URLs are asked.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    pub(crate) publishing_images: tokio::sync::Mutex<()>,
    pub(crate) pulls: Pulls,
    pub(crate) publishing_kernels: tokio::sync::Mutex<()>,
    /// Who has to do with which guest.
    pub(crate) uses: Uses,
    /// What VMs have used of the CPUs.
    pub(crate) samples: Samples,
    /// Told whenever a VM has ended by itself.
    pub(crate) ended: tokio::sync::Notify,
    /// The owner of each VM.
    pub(crate) owners: Mutex<HashMap<Id, mpsc::Sender<Message>>>,
}

impl Host {
    /// The configuration as its files say it now. Work in the background goes on with what it had when this fails.
    pub(crate) fn config(&self) -> Result<Arc<Config>, ApiError> {
        self.config.now()
    }

    /// What can be fetched by name, as far as it is known here.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>, ApiError> {
        Ok(self.catalog.layers(self.config()?.catalogs())?.all.clone())
    }

    /// Where image `id` keeps its file system.
    pub(crate) fn image_dir(&self, id: &Id) -> PathBuf {
        self.dirs.state.join("images").join(id.as_str())
    }

    /// Where kernel `id` keeps its files.
    pub(crate) fn kernel_dir(&self, id: &Id) -> PathBuf {
        self.dirs.state.join("kernels").join(id.as_str())
    }

    /// The VM that `reference` names.
    pub(crate) fn find_vm(&self, reference: &str) -> Result<VmRecord, ApiError> {
        let vms = self.store.vms()?;
        resolve(&vms, reference).cloned().map_err(|error| unresolved("VM", reference, error))
    }

    /// Gives VM `id` an owner, with what is alive for it.
    pub(crate) fn own_vm(self: &Arc<Self>, id: &Id, alive: crate::vm::Alive) {
        let owner = Actor::spawn(self.clone(), id.clone(), alive);
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), owner);
    }

    /// The owner of VM `id`, if there is such a VM.
    pub(crate) fn owner_of(&self, id: &Id) -> Option<mpsc::Sender<Message>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Lets go of the owner of a VM that is gone.
    pub(crate) fn forget_vm(&self, id: &Id) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.uses.forget(id);
    }
}

pub(crate) fn no_such(what: &str, reference: &str) -> ApiError {
    let hint = match what {
        "VM" => "see `banger ps -a`".to_owned(),
        what => where_they_are(what),
    };
    ApiError::new(ErrorKind::NotFound, format!("there is no {what} {reference:?}")).hint(hint)
}

/// Where to look for an image or a kernel that is not called as was thought.
pub(crate) fn where_they_are(what: &str) -> String {
    format!("see `banger {what} list`, and `banger {what} list --available` for what the catalog has")
}

/// A reference that names nothing, or too much.
pub(crate) fn unresolved(what: &str, reference: &str, error: RefError) -> ApiError {
    match error {
        RefError::NotFound => no_such(what, reference),
        RefError::Ambiguous(names) => ApiError::new(
            ErrorKind::Ambiguous,
            format!("{reference:?} could be any of the {what}s {}", names.join(", ")),
        )
        .hint("write more of the name or id"),
    }
}
