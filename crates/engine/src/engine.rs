//! The engine: its services, composed.

use std::{path::Path, sync::Arc};

use banger_api::{ApiError, Dirs, HappeningKind, Operation, OperationState, ReadLog, WatchEvents};

use crate::{
    cache::Cache,
    catalog::Catalogs,
    config::ConfigFiles,
    dirs,
    image::Images,
    kernel::{Initrds, Kernels},
    layout::store_file,
    operation::{Events, Operations},
    programs::Programs,
    recovery::Recovery,
    sessions::Sessions,
    store::Store,
    vm::{self, Owners, Services, Vms},
    vmms::{self, Vmms},
    watch::{self, Parts},
};

/// The engine: each of its services owns its own state, and answers for it.
#[derive(Debug, Clone)]
pub struct Engine {
    /// VMs.
    pub vms: Arc<Vms>,
    /// Images.
    pub images: Arc<Images>,
    /// Kernels.
    pub kernels: Arc<Kernels>,
    /// Catalogs.
    pub catalogs: Arc<Catalogs>,
    /// Caches.
    pub cache: Arc<Cache>,
    dirs: Arc<Dirs>,
    store: Arc<Store>,
    operations: Operations,
    sessions: Arc<Sessions>,
    vmms: Arc<Vmms>,
    recovery: Arc<Recovery>,
}

impl Engine {
    /// Opens the store under `dirs`, and takes over what the last daemon left.
    ///
    /// # Errors
    /// When a directory or the store cannot be used.
    pub async fn open(dirs: Dirs, programs: Programs) -> Result<Self, ApiError> {
        for dir in [&dirs.state, &dirs.cache, &dirs.runtime] {
            dirs::private(dir)?;
        }
        let dirs = Arc::new(dirs);
        let config = Arc::new(ConfigFiles::of(&dirs));
        let store = Arc::new(Store::open(&store_file(&dirs))?);
        let vmms = Arc::new(Vmms::new(vmms::search(&programs, &dirs.runtime, false), config.clone()));
        let engine = Self::compose(dirs, config, store, vmms, programs);
        engine.recovery.take_over().await?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        engine.store.happenings().tell(HappeningKind::DaemonStarted { version });
        tokio::spawn(vm::sample(engine.vms.clone()));
        tokio::spawn(vm::stop_idle(engine.vms.clone()));
        Ok(engine)
    }

    fn compose(
        dirs: Arc<Dirs>,
        config: Arc<ConfigFiles>,
        store: Arc<Store>,
        vmms: Arc<Vmms>,
        programs: Programs,
    ) -> Self {
        let operations = Operations::new(store.happenings().clone());
        let sessions = Arc::new(Sessions::new(store.clone()));
        let catalogs = Arc::new(Catalogs::new(&dirs, config.clone(), operations.clone()));
        let initrds = Arc::new(Initrds::new(dirs.clone(), programs.clone()));
        let images = Arc::new(Images::new(
            dirs.clone(),
            store.clone(),
            config.clone(),
            catalogs.clone(),
            operations.clone(),
        ));
        let kernels = Arc::new(Kernels::new(
            dirs.clone(),
            store.clone(),
            config.clone(),
            catalogs.clone(),
            operations.clone(),
            initrds.clone(),
        ));
        let cache = Arc::new(Cache {
            dirs: dirs.clone(),
            store: store.clone(),
            catalogs: catalogs.clone(),
            images: images.clone(),
            initrds: initrds.clone(),
            operations: operations.clone(),
        });
        let services = Arc::new(Services {
            dirs: dirs.clone(),
            store: store.clone(),
            config,
            programs,
            vmms: vmms.clone(),
            images: images.clone(),
            kernels: kernels.clone(),
            initrds,
            sessions: sessions.clone(),
        });
        let owners = Arc::new(Owners::new(services.clone()));
        let vms = Arc::new(Vms::new(services.clone(), owners.clone(), operations.clone()));
        let recovery =
            Arc::new(Recovery { services, owners, vms: vms.clone(), operations: operations.clone() });
        Self { vms, images, kernels, catalogs, cache, dirs, store, operations, sessions, vmms, recovery }
    }

    /// Returns banger's directories.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Returns the operations under way, and those that ended not long ago.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.list()
    }

    /// Returns the operations under way.
    pub fn under_way(&self) -> Vec<Operation> {
        let mut operations = self.operations();
        operations.retain(|operation| operation.state == OperationState::Running);
        operations
    }

    /// Returns how many sessions with guests are open.
    pub fn sessions(&self) -> usize {
        self.sessions.total()
    }

    /// Returns the events of an operation so far, and those to come until its end. Hanging up does not end it.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn follow(&self, operation: &str) -> Result<Events, ApiError> {
        self.operations.follow(operation)
    }

    /// Asks an operation to undo what it has done and end.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.operations.cancel(operation)
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.operations.idle().await;
    }

    /// Waits until no session with a guest is open.
    pub async fn no_sessions(&self) {
        self.sessions.none_open().await;
    }

    /// Makes the host agree with the store, as a start does, and returns what was amiss.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn repair(&self) -> Result<Vec<String>, ApiError> {
        Ok(self.recovery.repair().await?)
    }

    /// Puts the store into the one file, as the last thing before the daemon ends.
    pub fn close(&self) {
        if let Err(error) = self.store.settle() {
            tracing::warn!(%error, "the store's write-ahead log stays for the next start");
        }
    }

    /// Returns what would run a VM now, and what the KVM probe found, in words.
    pub async fn describe_vmm(&self) -> (String, String) {
        self.vmms.describe().await
    }

    /// Finds out what can run VMs, so that the first VM need not wait for it.
    pub fn warm_up(&self) {
        let vmms = self.vmms.clone();
        tokio::spawn(async move { vmms.describe().await });
    }

    /// Sends the daemon's own log.
    pub fn daemon_log(&self, read: ReadLog) -> Parts {
        watch::daemon_log(&self.dirs, read)
    }

    /// Sends what has happened, as far as it is remembered, and what happens from now on: lines of JSON.
    pub fn events(&self, watch: WatchEvents) -> Parts {
        watch::events(self.store.happenings(), watch)
    }
}

/// Creates `path` for this user alone; see the error for what is refused.
///
/// # Errors
/// When it cannot be made, or is another's, or a link.
pub fn private_dir(path: &Path) -> Result<(), ApiError> {
    Ok(dirs::private(path)?)
}
