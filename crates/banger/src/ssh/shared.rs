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
pub(crate) const CHANNELS: usize = 120;

/// Maximum number of listeners in the guest for one connection.
const LISTENERS: usize = 40;

/// Maximum age of a connection to the agent that was opened early; the agent's timeout is longer.
const FRESH: Duration = Duration::from_secs(10);

/// State that all channels of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) vm: Vm,
    /// File to write to when the guest's program has exited.
    pub(super) ended: Option<PathBuf>,
    places: Arc<Semaphore>,
    listeners: Mutex<HashMap<String, AbortHandle>>,
    /// The guest's socket for the user's ssh-agent, one for each connection.
    pub(super) agent_socket: OnceCell<Vec<u8>>,
    first: Mutex<Option<Beforehand>>,
}

/// A connection to the agent that is opened before any request.
#[derive(Debug)]
struct Beforehand {
    since: Instant,
    connecting: JoinHandle<Result<Agent, ApiError>>,
}

impl Shared {
    pub(super) fn new(client: Client, vm: Vm, ended: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            client,
            vm,
            ended,
            places: Arc::new(Semaphore::new(CHANNELS)),
            listeners: Mutex::default(),
            agent_socket: OnceCell::new(),
            first: Mutex::default(),
        })
    }

    /// Connects to the VM's agent early, for the first session: during the key exchange, this costs no time.
    pub(super) fn connect_beforehand(self: &Arc<Self>) {
        let shared = self.clone();
        let connecting =
            tokio::spawn(async move { banger_client::agent(&shared.client, shared.vm_id()).await });
        *locked(&self.first) = Some(Beforehand { since: Instant::now(), connecting });
    }

    /// Returns a connection to the VM's agent.
    pub(super) async fn connect(&self) -> Result<Agent, ApiError> {
        let first = locked(&self.first).take();
        if let Some(first) = first
            && first.since.elapsed() < FRESH
            && let Ok(connected) = first.connecting.await
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
    pub(super) fn by_name(&self, mut error: ApiError) -> ApiError {
        let subject = error.subject.as_mut().map(|subject| &mut subject.name);
        for text in [&mut error.message].into_iter().chain(&mut error.hint).chain(subject) {
            *text = text.replace(self.vm.id.as_str(), self.vm.name.as_str());
        }
        error
    }

    /// Returns a permit for one more channel; `None` if there are too many.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Waits for a permit for one more channel.
    pub(super) async fn place_in_time(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// Registers the listener at `at` until it is cancelled; returns false if there are too many.
    pub(super) fn keep_listener(&self, at: &Endpoint, listener: AbortHandle) -> bool {
        let mut listeners = locked(&self.listeners);
        if listeners.len() >= LISTENERS {
            listener.abort();
            return false;
        }
        listeners.insert(name_of(at), listener);
        true
    }

    /// Stops the listener at `at`; returns false if there is none.
    pub(super) fn cancel_listener(&self, at: &Endpoint) -> bool {
        let listener = locked(&self.listeners).remove(&name_of(at));
        listener.map(|listener| listener.abort()).is_some()
    }
}

fn name_of(at: &Endpoint) -> String {
    match at {
        Endpoint::Tcp { host, port } => format!("{port} {host}"),
        Endpoint::Unix { path } => format!("/{}", String::from_utf8_lossy(path)),
    }
}

/// Locks a mutex; a panic elsewhere never leaves its value inconsistent.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
