//! The engine, which composes the services.

use std::sync::{Arc, atomic::AtomicBool};

use banger_api::{ApiError, Dirs, EventKind, Operation, OperationState, ReadLog, WatchEvents};

use crate::{
    cache::Cache,
    catalog::Catalogs,
    config::ConfigFiles,
    dirs,
    error::EngineError,
    image::Images,
    kernel::{Initrds, Kernels},
    layout::store_file,
    operation::{Events, Operations},
    ports::{self, Ports},
    programs::Programs,
    recovery::Recovery,
    sessions::Sessions,
    store::{Store, VmRecord},
    store_lock::StoreLock,
    vm::{self, Actors, Services, Vms},
    vmms::{self, Vmms},
    watch::{self, ByteStream},
};

/// The engine. Each service owns its own state.
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
    config: Arc<ConfigFiles>,
    store: Arc<Store>,
    lock: Arc<StoreLock>,
    operations: Operations,
    sessions: Arc<Sessions>,
    vmms: Arc<Vmms>,
    recovery: Arc<Recovery>,
}

impl Engine {
    /// Opens the store that `lock` is for, and takes over the VMs that the last daemon left.
    ///
    /// # Errors
    /// Returns an error if a directory or the store cannot be used.
    pub async fn open(lock: StoreLock, programs: Programs) -> Result<Self, ApiError> {
        let dirs = Arc::new(lock.dirs().clone());
        for dir in [&dirs.state, &dirs.cache, &dirs.runtime] {
            dirs::create_private(dir)?;
        }
        let config = Arc::new(ConfigFiles::new(&dirs));
        let store = Arc::new(Store::open_locked(&store_file(&dirs), lock.file()?)?);
        let vmms = Arc::new(Vmms::new(vmms::search(&programs, &dirs.runtime, false), config.clone()));
        let engine = Self::compose(dirs, config, store, vmms, programs, Arc::new(lock));
        engine.recovery.take_over().await?;
        engine.lock.record_recovery()?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        engine.store.event_log().publish(EventKind::DaemonStarted { version });
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
        lock: Arc<StoreLock>,
    ) -> Self {
        let operations = Operations::new(store.event_log().clone());
        let sessions = Arc::new(Sessions::new(store.clone()));
        let catalogs = Arc::new(Catalogs::new(&dirs, store.clone(), config.clone(), operations.clone()));
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
            config: config.clone(),
            programs,
            vmms: vmms.clone(),
            images: images.clone(),
            kernels: kernels.clone(),
            initrds,
            sessions: sessions.clone(),
            network_warning_shown: AtomicBool::new(false),
            ports: Arc::new(Ports::new(sessions.clone())),
        });
        let actors = Arc::new(Actors::new(services.clone()));
        let vms = Arc::new(Vms::new(services.clone(), actors.clone(), operations.clone()));
        let recovery = Arc::new(Recovery {
            services,
            actors,
            vms: vms.clone(),
            operations: operations.clone(),
            interruption: lock.interruption(),
        });
        Self {
            vms,
            images,
            kernels,
            catalogs,
            cache,
            dirs,
            config,
            store,
            lock,
            operations,
            sessions,
            vmms,
            recovery,
        }
    }

    /// Returns banger's directories.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Returns the running operations, and those that ended recently.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.list()
    }

    /// Returns the running operations.
    pub fn running_operations(&self) -> Vec<Operation> {
        let mut operations = self.operations();
        operations.retain(|operation| operation.state == OperationState::Running);
        operations
    }

    /// Returns the number of open sessions with guests.
    pub fn sessions(&self) -> usize {
        self.sessions.total()
    }

    /// Returns an operation's past events, then its new ones until it ends. Disconnecting does not cancel it.
    ///
    /// # Errors
    /// Returns an error if there is no such operation.
    pub fn follow(&self, operation: &str) -> Result<Events, ApiError> {
        self.operations.follow(operation)
    }

    /// Asks an operation to undo its work and end.
    ///
    /// # Errors
    /// Returns an error if there is no such operation.
    pub fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.operations.cancel(operation)
    }

    /// Waits until no operation is running.
    pub async fn idle(&self) {
        self.operations.idle().await;
    }

    /// Waits until no session with a guest is open.
    pub async fn sessions_closed(&self) {
        self.sessions.all_closed().await;
    }

    /// Makes the host agree with the store, as startup does, and returns the problems found.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub async fn repair(&self) -> Result<Vec<String>, ApiError> {
        Ok(self.recovery.repair().await?)
    }

    /// Checkpoints the store into its one file, and records that the daemon has stopped. It does this last, before it
    /// exits.
    pub fn close(&self) {
        let closed = self.store.checkpoint().and_then(|()| self.store.vms()).map_err(EngineError::from);
        let running = |vms: Vec<VmRecord>| vms.iter().filter(|vm| vm.handle.is_some()).count();
        if let Err(error) = closed.and_then(|vms| self.lock.record_stop(running(vms))) {
            tracing::warn!(%error, "cannot checkpoint the store's write-ahead log; the next start does it");
        }
    }

    /// Returns the VMM that would run a VM now, and the result of the KVM probe, as text.
    pub async fn describe_vmm(&self) -> (String, String) {
        self.vmms.describe().await
    }

    /// Returns the port of the reverse proxy, unless it is off.
    ///
    /// # Errors
    /// Returns an error if the configuration is invalid.
    pub fn proxy_port(&self) -> Result<Option<u16>, ApiError> {
        Ok(self.config.current()?.proxy().port())
    }

    /// Returns the process that listens on a port of loopback, for people, if `/proc` says it.
    pub fn owner_of_port(port: u16) -> Option<String> {
        ports::owner_on_loopback(port)
    }

    /// Detects the host's VMMs in advance, so that the first VM need not wait for it.
    pub fn warm_up(&self) {
        let vmms = self.vmms.clone();
        tokio::spawn(async move { vmms.describe().await });
    }

    /// Sends the daemon's own log.
    pub fn daemon_log(&self, read: ReadLog) -> ByteStream {
        watch::daemon_log(&self.dirs, read)
    }

    /// Sends the events kept so far, then new ones if `watch` follows them, as lines of JSON.
    pub fn events(&self, watch: WatchEvents) -> ByteStream {
        watch::events(self.store.event_log(), watch)
    }
}
