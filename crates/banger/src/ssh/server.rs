//! ssh's requests, channel by channel.
//!
//! Nothing here waits for the guest. A channel's own task waits, or the task that answers global requests in order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use banger_proto::Endpoint;
use banger_ssh_server::{
    Address, Channel, Decision, GlobalAnswer, GlobalRequest, Handler, Link, Refusal, Request, Target,
    TerminalSize, TooManyRequests,
};
use tokio::sync::{mpsc, watch};

use super::{
    forward,
    relay::terminal_size,
    session::{self, PendingSession, SessionRequest},
    shared::Shared,
};

/// Maximum number of a session's variables, and maximum size of each in bytes.
const MAX_VARIABLES: usize = 100;
const MAX_VARIABLE_SIZE: usize = 32 << 10;

/// Maximum number of unanswered global requests.
const MAX_GLOBAL_REQUESTS: usize = 100;

/// A connection's sessions and forwards.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    link: Link,
    user: Option<String>,
    /// Sessions that do not run yet.
    pending: HashMap<u32, PendingSession>,
    global_requests: mpsc::Sender<QueuedRequest>,
    /// Number of global requests received.
    received: u64,
    /// Number of global requests answered.
    answered: watch::Receiver<u64>,
}

/// A request that does not concern a channel.
#[derive(Debug)]
struct QueuedRequest {
    request: GlobalRequest,
    user: Option<String>,
    wants_reply: bool,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, link: Link) -> Self {
        let (global_requests, queue) = mpsc::channel(MAX_GLOBAL_REQUESTS);
        let (count, answered) = watch::channel(0);
        tokio::spawn(answer(shared.clone(), link.clone(), queue, count));
        Self { shared, link, user: None, pending: HashMap::new(), global_requests, received: 0, answered }
    }

    fn open_session(&mut self, channel: Channel) -> Decision {
        let Some(permit) = self.shared.permits().try_acquire() else {
            return Decision::Refuse(Refusal::TooMany);
        };
        let (user, env) = (self.user.clone(), BTreeMap::new());
        let pending = PendingSession { permit, user, env, terminal: None, agent: false, channel };
        self.pending.insert(pending.channel.number(), pending);
        Decision::Accept
    }
}

impl Handler for Server {
    fn authenticated(&mut self, user: String) {
        self.user = Some(user);
    }

    fn open(&mut self, target: Target, channel: Channel) -> Decision {
        let to = match target {
            Target::Session => return self.open_session(channel),
            Target::Socket(address) => endpoint(address),
            Target::Unknown => return Decision::Refuse(Refusal::UnknownTarget),
        };
        let Some(permit) = self.shared.permits().try_acquire() else {
            return Decision::Refuse(Refusal::TooMany);
        };
        let (shared, user) = (self.shared.clone(), self.user.clone());
        tokio::spawn(async move {
            forward::direct(&shared, to, user, channel).await;
            drop(permit);
        });
        Decision::Later
    }

    fn closed(&mut self, channel: u32) {
        self.pending.remove(&channel);
    }

    fn request(&mut self, channel: u32, request: Request) -> bool {
        let Some(pending) = self.pending.get_mut(&channel) else { return false };
        let program = match request {
            Request::Terminal { term, size } => return set_terminal(pending, term, size),
            Request::Variable { name, value } => return set_variable(pending, name, value),
            Request::ForwardAgent => {
                pending.agent = true;
                return true;
            }
            Request::Shell => SessionRequest::Shell,
            Request::Exec(line) => SessionRequest::Line(line),
            Request::Subsystem(name) if name == "sftp" => SessionRequest::Sftp,
            Request::Subsystem(_) | Request::Unknown => return false,
        };
        let Some(pending) = self.pending.remove(&channel) else { return false };
        let run = session::run(self.shared.clone(), self.link.clone(), pending, program);
        let (received, mut answered) = (self.received, self.answered.clone());
        tokio::spawn(async move {
            // As sshd does: with ExitOnForwardFailure, ssh must see a refused forward before its command ends. An
            // error means that the connection has ended.
            let _ = answered.wait_for(|answered| *answered >= received).await;
            run.await;
        });
        true
    }

    fn global(&mut self, request: GlobalRequest, wants_reply: bool) -> Result<(), TooManyRequests> {
        self.received += 1;
        let queued = QueuedRequest { request, user: self.user.clone(), wants_reply };
        self.global_requests.try_send(queued).map_err(|_| TooManyRequests)
    }
}

/// Returns the socket in the guest with this address.
fn endpoint(address: Address) -> Endpoint {
    match address {
        Address::Tcp { host, port } => Endpoint::Tcp { host, port },
        Address::Unix { path } => Endpoint::Unix { path },
    }
}

/// Returns whether ssh may set this variable: those that Debian's server accepts, and those about colour.
fn is_allowed(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_") || matches!(name, "COLORTERM" | "NO_COLOR")
}

fn set_variable(pending: &mut PendingSession, name: String, value: String) -> bool {
    let fits = name.len() + value.len() <= MAX_VARIABLE_SIZE && pending.env.len() < MAX_VARIABLES;
    if fits && is_allowed(&name) {
        pending.env.insert(name, value);
        return true;
    }
    false
}

fn set_terminal(pending: &mut PendingSession, term: String, size: TerminalSize) -> bool {
    pending.terminal = Some(terminal_size(size));
    if !term.is_empty() && term.len() <= MAX_VARIABLE_SIZE {
        pending.env.insert("TERM".to_owned(), term);
    }
    true
}

/// Answers global requests in order, and counts them in `answered`.
async fn answer(
    shared: Arc<Shared>,
    link: Link,
    mut queue: mpsc::Receiver<QueuedRequest>,
    answered: watch::Sender<u64>,
) {
    while let Some(QueuedRequest { request, user, wants_reply }) = queue.recv().await {
        let answer = match request {
            GlobalRequest::Listen(at) => {
                let any_port = matches!(at, Address::Tcp { port: 0, .. });
                match forward::listen(&shared, &link, endpoint(at), user).await {
                    Ok(Endpoint::Tcp { port, .. }) if any_port => GlobalAnswer::Port(port),
                    Ok(_) => GlobalAnswer::Succeeded,
                    Err(_) => GlobalAnswer::Failed,
                }
            }
            GlobalRequest::Cancel(at) if shared.listeners().cancel(&endpoint(at.clone())) => {
                GlobalAnswer::Succeeded
            }
            GlobalRequest::Cancel(_) | GlobalRequest::Unknown => GlobalAnswer::Failed,
        };
        if wants_reply && link.answer_global(answer).await.is_err() {
            return;
        }
        answered.send_modify(|count| *count += 1);
    }
}
