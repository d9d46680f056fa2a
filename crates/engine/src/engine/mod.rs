//! The engine's face: one method for each thing that can be asked of the daemon.

mod create;
mod images;
mod kernels;
mod made_images;
mod stats;
mod vms;
mod watch;

use std::sync::Arc;

use banger_api::{ApiError, Dirs, Event, HappeningKind, Operation, OperationState};
use tokio::sync::mpsc;

pub use watch::Parts;

use crate::{
    catalog::CatalogFiles,
    config::ConfigFiles,
    host::{Host, Programs},
    operation::Operations,
    pull::Pulls,
    reconcile,
    stats::Samples,
    store::Store,
    uses::Uses,
    vmms::Vmms,
};

/// An operation's events, the last being `done` or `error`. Dropping it is hanging up.
pub type Events = mpsc::Receiver<Event>;

/// The engine.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Host>);

impl Engine {
    /// Opens the store under `dirs`, and takes over what the last daemon left.
    ///
    /// # Errors
    /// When a folder or the store cannot be used.
    pub async fn open(dirs: Dirs, programs: Programs) -> Result<Self, ApiError> {
        for folder in [&dirs.state, &dirs.cache, &dirs.runtime] {
            crate::dirs::private(folder)?;
        }
        let config = Arc::new(ConfigFiles::of(&dirs));
        let store = Store::open(&dirs.state.join("store.db"))?;
        let host = Arc::new(Host {
            vmms: Vmms::new(&programs, config.clone()),
            catalog: CatalogFiles::of(&dirs),
            dirs,
            config,
            operations: Operations::new(store.happenings().clone()),
            store,
            programs,
            initrds: crate::kernels::Initrds::default(),
            refreshing: tokio::sync::Mutex::default(),
            publishing_images: tokio::sync::Mutex::default(),
            pulls: Pulls::default(),
            publishing_kernels: tokio::sync::Mutex::default(),
            uses: Uses::default(),
            samples: Samples::default(),
            ended: tokio::sync::Notify::new(),
            owners: std::sync::Mutex::default(),
        });
        reconcile::reconcile(&host).await?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        host.store.happenings().tell(HappeningKind::DaemonStarted { version });
        tokio::spawn(crate::stats::sample(host.clone()));
        tokio::spawn(crate::sweep::sweep(host.clone()));
        Ok(Self(host))
    }

    /// The engine that works on `host`.
    pub(crate) fn of(host: &Arc<Host>) -> Self {
        Self(host.clone())
    }

    /// banger's folders.
    pub fn dirs(&self) -> &Dirs {
        &self.0.dirs
    }

    /// What is under way, and what ended not long ago.
    pub fn operations(&self) -> Vec<Operation> {
        self.0.operations.list()
    }

    /// What is under way.
    pub fn under_way(&self) -> Vec<Operation> {
        let mut operations = self.operations();
        operations.retain(|operation| operation.state == OperationState::Running);
        operations
    }

    /// Sessions with guests that are open.
    pub fn sessions(&self) -> usize {
        self.0.uses.all_open()
    }

    /// What an operation has told, and what it tells until its end. Hanging up does not end it.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn follow(&self, operation: &str) -> Result<Events, ApiError> {
        self.0.operations.follow(operation)
    }

    /// Asks an operation to undo what it has done and end.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn cancel(&self, operation: &str) -> Result<(), ApiError> {
        self.0.operations.cancel(operation)
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.0.operations.idle().await;
    }

    /// Waits until no session with a guest is open.
    pub async fn no_sessions(&self) {
        self.0.uses.none_open().await;
    }

    /// Brings the world in line with the store, as a start does, and says what was amiss.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn repair(&self) -> Result<Vec<String>, ApiError> {
        Ok(reconcile::repair(&self.0).await?)
    }

    /// Puts the store into the one file, as the last thing before the daemon ends.
    pub fn close(&self) {
        if let Err(error) = self.0.store.settle() {
            tracing::warn!(%error, "the store's write-ahead log stays for the next start");
        }
    }

    /// What would run a VM now, and what the KVM probe found, in words.
    pub async fn describe_vmm(&self) -> (String, String) {
        self.0.vmms.describe().await
    }

    /// Finds out what can run VMs, so that the first VM need not wait for it.
    pub fn warm_up(&self) {
        let host = self.0.clone();
        tokio::spawn(async move { host.vmms.describe().await });
    }
}
