//! State that all channels of a connection share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use banger_api::{ApiError, Vm};
use banger_client::{Agent, Client};
use banger_proto::Endpoint;
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinHandle},
};

/// Maximum number of channels or forwarded connections. Each is a connection to the agent, which serves 200.
pub(crate) const MAX_CHANNELS: usize = 120;

/// Maximum number of listeners in the guest for one connection.
const MAX_LISTENERS: usize = 40;

/// Maximum age of a connection to the agent that was opened early; the agent's timeout is longer.
const MAX_EARLY_AGE: Duration = Duration::from_secs(10);

/// State that all channels of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) vm: Vm,
    /// File to write to when the guest's program has exited.
    pub(super) exit_file: Option<PathBuf>,
    permits: Arc<Semaphore>,
    listeners: Mutex<HashMap<String, AbortHandle>>,
    /// The guest's socket for the user's ssh-agent, one for each connection.
    pub(super) agent_socket: OnceCell<Vec<u8>>,
    early: Mutex<Option<EarlyConnection>>,
}

/// A connection to the agent that is opened before any request.
#[derive(Debug)]
struct EarlyConnection {
    since: Instant,
    connecting: JoinHandle<Result<Agent, ApiError>>,
}

impl Shared {
    pub(super) fn new(client: Client, vm: Vm, exit_file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            client,
            vm,
            exit_file,
            permits: Arc::new(Semaphore::new(MAX_CHANNELS)),
            listeners: Mutex::default(),
            agent_socket: OnceCell::new(),
            early: Mutex::default(),
        })
    }

    /// Connects to the VM's agent early, for the first session: during the key exchange, this costs no time.
    pub(super) fn connect_early(self: &Arc<Self>) {
        let shared = self.clone();
        let connecting =
            tokio::spawn(async move { banger_client::agent(&shared.client, shared.vm_id()).await });
        *lock(&self.early) = Some(EarlyConnection { since: Instant::now(), connecting });
    }

    /// Returns a connection to the VM's agent.
    pub(super) async fn connect(&self) -> Result<Agent, ApiError> {
        let early = lock(&self.early).take();
        if let Some(early) = early
            && early.since.elapsed() < MAX_EARLY_AGE
            && let Ok(connected) = early.connecting.await
        {
            return connected;
        }
        banger_client::agent(&self.client, self.vm_id()).await
    }

    /// Returns the VM's id; another VM could get the same name.
    pub(super) fn vm_id(&self) -> &str {
        self.vm.id.as_str()
    }

    /// Returns `error` with the VM's name, which the user knows, in place of its id.
    pub(super) fn with_vm_name(&self, mut error: ApiError) -> ApiError {
        let subject = error.subject.as_mut().map(|subject| &mut subject.name);
        for text in [&mut error.message].into_iter().chain(&mut error.hint).chain(subject) {
            *text = text.replace(self.vm.id.as_str(), self.vm.name.as_str());
        }
        error
    }

    /// Returns a permit for one more channel; `None` if there are too many.
    pub(super) fn try_acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits for a permit for one more channel.
    pub(super) async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Registers the listener at `at` until it is cancelled; returns false if there are too many.
    pub(super) fn add_listener(&self, at: &Endpoint, listener: AbortHandle) -> bool {
        let mut listeners = lock(&self.listeners);
        if listeners.len() >= MAX_LISTENERS {
            listener.abort();
            return false;
        }
        listeners.insert(endpoint_key(at), listener);
        true
    }

    /// Stops the listener at `at`; returns false if there is none.
    pub(super) fn cancel_listener(&self, at: &Endpoint) -> bool {
        let listener = lock(&self.listeners).remove(&endpoint_key(at));
        listener.map(|listener| listener.abort()).is_some()
    }
}

fn endpoint_key(at: &Endpoint) -> String {
    match at {
        Endpoint::Tcp { host, port } => format!("{port} {host}"),
        Endpoint::Unix { path } => format!("/{}", String::from_utf8_lossy(path)),
    }
}

/// Locks a mutex; a panic elsewhere never leaves its value inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
