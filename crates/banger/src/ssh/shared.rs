//! What all channels of a connection work with.

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

/// Channels at a time, or callers of forwarded ports: each is a connection to the agent, which serves 200.
pub(crate) const CHANNELS: usize = 120;

/// Sockets that may listen in the guest for one connection.
const LISTENERS: usize = 40;

/// How long a connection to the agent that was made beforehand may have waited: the agent's patience is longer.
const FRESH: Duration = Duration::from_secs(10);

/// What all channels share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) vm: Vm,
    /// A file to make when the guest's program has told how it ended.
    pub(super) ended: Option<PathBuf>,
    places: Arc<Semaphore>,
    listeners: Mutex<HashMap<String, AbortHandle>>,
    /// The path in the guest of the socket behind which the user's agent is: one for a connection.
    pub(super) agent_socket: OnceCell<Vec<u8>>,
    first: Mutex<Option<Beforehand>>,
}

/// A connection to the agent that is made before there is anything to ask.
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

    /// Connects to the VM's agent already, for the first session: beside the key exchange it costs no time.
    pub(super) fn connect_beforehand(self: &Arc<Self>) {
        let shared = self.clone();
        let connecting =
            tokio::spawn(async move { banger_client::agent(&shared.client, shared.vm_id()).await });
        *locked(&self.first) = Some(Beforehand { since: Instant::now(), connecting });
    }

    /// A connection to the VM's agent.
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

    /// A VM is named by its id, so that another one with the name is not taken for it.
    pub(super) fn vm_id(&self) -> &str {
        self.vm.id.as_str()
    }

    /// `error` with the VM's name in it, which its user knows it by.
    pub(super) fn by_name(&self, mut error: ApiError) -> ApiError {
        let subject = error.subject.as_mut().map(|subject| &mut subject.name);
        for text in [&mut error.message].into_iter().chain(&mut error.hint).chain(subject) {
            *text = text.replace(self.vm.id.as_str(), self.vm.name.as_str());
        }
        error
    }

    /// A place for one more channel; `None` when there are too many.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// A place for one more channel, once there is one.
    pub(super) async fn place_in_time(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// Keeps what listens at `at` until it is cancelled; false when there are too many.
    pub(super) fn keep_listener(&self, at: &Endpoint, listener: AbortHandle) -> bool {
        let mut listeners = locked(&self.listeners);
        if listeners.len() >= LISTENERS {
            listener.abort();
            return false;
        }
        listeners.insert(name_of(at), listener);
        true
    }

    /// Ends what listens at `at`; false when nothing does.
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

/// What is in there is whole at every moment, whoever has panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
