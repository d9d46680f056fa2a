//! Parts of the engine that the work on VMs uses.

use std::sync::{Arc, atomic::AtomicBool};

use banger_api::{ApiError, Dirs, SubjectKind};

use crate::{
    config::ConfigFiles,
    image::Images,
    kernel::{Initrds, Kernels},
    layout::VmDir,
    ports::Ports,
    programs::Programs,
    sessions::Sessions,
    store::{Store, VmRecord},
    vmms::Vmms,
};

/// Parts of the engine that the work on VMs uses.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) dirs: Arc<Dirs>,
    pub(crate) store: Arc<Store>,
    pub(crate) config: Arc<ConfigFiles>,
    pub(crate) programs: Programs,
    pub(crate) vmms: Arc<Vmms>,
    pub(crate) images: Arc<Images>,
    pub(crate) kernels: Arc<Kernels>,
    pub(crate) initrds: Arc<Initrds>,
    pub(crate) sessions: Arc<Sessions>,
    /// True once a user was warned that VMs have no network on this host.
    pub(crate) network_warning_shown: AtomicBool,
    pub(crate) ports: Arc<Ports>,
}

impl Services {
    /// Returns the VM that `reference` names.
    pub(crate) fn find_vm(&self, reference: &str) -> Result<VmRecord, ApiError> {
        let vms = self.store.vms()?;
        banger_api::resolve(&vms, reference)
            .cloned()
            .map_err(|error| ApiError::unresolved(SubjectKind::Vm, reference, error))
    }

    pub(crate) fn vm_dir(&self, vm: &VmRecord) -> VmDir {
        VmDir::new(&self.dirs, &vm.id)
    }
}
