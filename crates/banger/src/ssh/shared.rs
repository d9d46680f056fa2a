//! State that all channels of a connection share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use banger_api::{ApiError, ErrorKind, Vm};
use banger_client::{Agent, Client};
use banger_proto::Endpoint;
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinHandle},
};

/// Maximum number of channels or forwarded connections. Each is a connection to the agent, which serves 200.
pub(crate) const MAX_CHANNELS: usize = 120;

/// Maximum number of connections from the guest, which opens them when it likes. Others remain for the user's sessions.
const MAX_INCOMING: usize = 60;

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
    permits: Permits,
    listeners: Listeners,
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
            permits: Permits::new(),
            listeners: Listeners::default(),
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

    /// Returns the permits for channels.
    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Returns the connection's listeners in the guest.
    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }
}

/// Permits for channels and forwarded connections.
#[derive(Debug)]
pub(super) struct Permits {
    all: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
}

impl Permits {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_CHANNELS)), incoming: Arc::new(Semaphore::new(MAX_INCOMING)) }
    }

    /// Returns a permit for one more channel; `None` if there are too many.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().try_acquire_owned().ok()
    }

    /// Waits for permits for one more channel that the guest opens.
    pub(super) async fn acquire_incoming(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let incoming = self.incoming.clone().acquire_owned().await.ok()?;
        Some([incoming, self.all.clone().acquire_owned().await.ok()?])
    }
}

/// Listeners in the guest, by address.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<HashMap<Vec<u8>, AbortHandle>>);

impl Listeners {
    /// Registers the listener at `at` until it is cancelled.
    ///
    /// # Errors
    /// Stops the listener and returns an error if there are too many, or if another one is at `at`.
    pub(super) fn add(&self, at: &Endpoint, listener: AbortHandle) -> Result<(), ApiError> {
        let mut listeners = lock(&self.0);
        let problem = if listeners.len() >= MAX_LISTENERS {
            ApiError::new(ErrorKind::Invalid, "too many sockets listen in the guest for this connection")
        } else if listeners.get(&endpoint_key(at)).is_some_and(|other| !other.is_finished()) {
            ApiError::new(ErrorKind::Guest, "the guest already listens at this address for this connection")
        } else {
            listeners.insert(endpoint_key(at), listener);
            return Ok(());
        };
        listener.abort();
        Err(problem)
    }

    /// Stops the listener at `at`; returns false if there is none.
    pub(super) fn cancel(&self, at: &Endpoint) -> bool {
        let listener = lock(&self.0).remove(&endpoint_key(at));
        listener.map(|listener| listener.abort()).is_some()
    }
}

fn endpoint_key(at: &Endpoint) -> Vec<u8> {
    match at {
        Endpoint::Tcp { host, port } => format!("{port} {host}").into_bytes(),
        Endpoint::Unix { path } => [b"/", path.as_slice()].concat(),
    }
}

/// Locks a mutex; a panic elsewhere never leaves its value inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_guest_that_reports_an_address_twice_cannot_hide_a_listener() {
        let listeners = Listeners::default();
        let at = |port| Endpoint::Tcp { host: "localhost".into(), port };
        let listener = || tokio::spawn(std::future::pending::<()>());
        let (first, second) = (listener(), listener());
        listeners.add(&at(1), first.abort_handle()).unwrap();
        assert_eq!(listeners.add(&at(1), second.abort_handle()).unwrap_err().kind, ErrorKind::Guest);
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(listeners.cancel(&at(1)) && !listeners.cancel(&at(1)));
        assert!(first.await.unwrap_err().is_cancelled());
        for port in 0..40 {
            listeners.add(&at(port), listener().abort_handle()).unwrap();
        }
        let error = listeners.add(&at(40), listener().abort_handle()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn connections_from_the_guest_leave_channels_for_the_user() {
        let permits = Permits::new();
        let mut incoming = Vec::new();
        while let Some(Some(permits)) = permits.acquire_incoming().now_or_never() {
            incoming.push(permits);
        }
        assert_eq!(incoming.len(), MAX_INCOMING);
        let sessions: Vec<_> = std::iter::from_fn(|| permits.try_acquire()).collect();
        assert_eq!(sessions.len(), MAX_CHANNELS - MAX_INCOMING);
        drop((incoming, sessions));
        assert!(permits.acquire_incoming().now_or_never().flatten().is_some());
    }
}
