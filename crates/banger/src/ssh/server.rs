//! ssh's requests, channel by channel.
//!
//! Nothing here waits for the guest. A channel's own task waits, or the task that answers global requests in order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use banger_proto::{Endpoint, TerminalSize};
use tokio::sync::{mpsc, watch};

use super::{
    channel::{Channel, Command, Control, Link, Refusal},
    connection::{Handler, number},
    forward,
    session::{self, PendingSession, SessionRequest},
    shared::Shared,
    wire::{Fields, Message, WireError},
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

#[derive(Debug)]
enum GlobalRequest {
    Listen(Endpoint),
    Cancel(Endpoint),
    /// An unknown request.
    Unknown,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, link: Link) -> Self {
        let (global_requests, queue) = mpsc::channel(MAX_GLOBAL_REQUESTS);
        let (count, answered) = watch::channel(0);
        tokio::spawn(answer(shared.clone(), link.clone(), queue, count));
        Self { shared, link, user: None, pending: HashMap::new(), global_requests, received: 0, answered }
    }

    fn open_session(&mut self, channel: Channel) -> Result<(), Refusal> {
        let permit = self.shared.permits().try_acquire().ok_or(Refusal::TooMany)?;
        let (user, env) = (self.user.clone(), BTreeMap::new());
        let pending = PendingSession { permit, user, env, terminal: None, agent: false, channel };
        self.pending.insert(pending.channel.number(), pending);
        Ok(())
    }
}

impl Handler for Server {
    fn set_user(&mut self, user: String) {
        self.user = Some(user);
    }

    fn open(
        &mut self,
        kind: &str,
        channel: Channel,
        fields: &mut Fields,
    ) -> Result<Option<Result<(), Refusal>>, WireError> {
        let to = match kind {
            "session" => return Ok(Some(self.open_session(channel))),
            "direct-tcpip" => {
                let (host, port) = (fields.text()?, fields.u32()?);
                match u16::try_from(port) {
                    Ok(port) => Endpoint::Tcp { host, port },
                    Err(_) => return Ok(Some(Err(Refusal::ConnectFailed(format!("invalid port {port}"))))),
                }
            }
            "direct-streamlocal@openssh.com" => Endpoint::Unix { path: fields.bytes()?.to_vec() },
            _ => return Ok(Some(Err(Refusal::UnknownKind))),
        };
        let Some(permit) = self.shared.permits().try_acquire() else {
            return Ok(Some(Err(Refusal::TooMany)));
        };
        let (shared, link, user) = (self.shared.clone(), self.link.clone(), self.user.clone());
        tokio::spawn(async move {
            forward::direct(&shared, &link, to, user, channel).await;
            drop(permit);
        });
        Ok(None)
    }

    fn closed(&mut self, channel: u32) {
        self.pending.remove(&channel);
    }

    fn request(&mut self, channel: u32, kind: &str, fields: &mut Fields) -> Result<bool, WireError> {
        let Some(pending) = self.pending.get_mut(&channel) else { return Ok(false) };
        let program = match kind {
            "pty-req" => {
                let (term, Control::Resize(size)) =
                    (fields.text()?, Control::resize(fields.u32()?, fields.u32()?))
                else {
                    return Ok(false);
                };
                return Ok(set_terminal(pending, term, size));
            }
            "env" => return Ok(set_variable(pending, fields.text()?, fields.text()?)),
            "auth-agent-req@openssh.com" => {
                pending.agent = true;
                return Ok(true);
            }
            "shell" => SessionRequest::Shell,
            "exec" => SessionRequest::Line(fields.bytes()?.to_vec()),
            "subsystem" if fields.text()? == "sftp" => SessionRequest::Sftp,
            _ => return Ok(false),
        };
        let Some(pending) = self.pending.remove(&channel) else { return Ok(false) };
        let run = session::run(self.shared.clone(), self.link.clone(), pending, program);
        let (received, mut answered) = (self.received, self.answered.clone());
        tokio::spawn(async move {
            // As sshd does: with ExitOnForwardFailure, ssh must see a refused forward before its command ends. An
            // error means that the connection has ended.
            let _ = answered.wait_for(|answered| *answered >= received).await;
            run.await;
        });
        Ok(true)
    }

    fn global(&mut self, kind: &str, wants_reply: bool, fields: &mut Fields) -> Result<(), WireError> {
        let tcp = |fields: &mut Fields| -> Result<Option<Endpoint>, WireError> {
            let (host, port) = (fields.text()?, fields.u32()?);
            Ok(u16::try_from(port).ok().map(|port| Endpoint::Tcp { host, port }))
        };
        let unix = |fields: &mut Fields| -> Result<Option<Endpoint>, WireError> {
            Ok(Some(Endpoint::Unix { path: fields.bytes()?.to_vec() }))
        };
        let request = match kind {
            "tcpip-forward" => tcp(fields)?.map(GlobalRequest::Listen),
            "cancel-tcpip-forward" => tcp(fields)?.map(GlobalRequest::Cancel),
            "streamlocal-forward@openssh.com" => unix(fields)?.map(GlobalRequest::Listen),
            "cancel-streamlocal-forward@openssh.com" => unix(fields)?.map(GlobalRequest::Cancel),
            _ => None,
        };
        let queued = QueuedRequest {
            request: request.unwrap_or(GlobalRequest::Unknown),
            user: self.user.clone(),
            wants_reply,
        };
        self.received += 1;
        self.global_requests.try_send(queued).map_err(|_| WireError::Unexpected(number::GLOBAL_REQUEST))
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
    pending.terminal = Some(size);
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
        let success = || Some(Message::new(number::REQUEST_SUCCESS));
        let answer = match request {
            GlobalRequest::Listen(at) => {
                let any_port = matches!(at, Endpoint::Tcp { port: 0, .. });
                // ssh reports only the refusal; the protocol has no field for the reason.
                match forward::listen(&shared, &link, at, user).await {
                    Ok(Endpoint::Tcp { port, .. }) if any_port => {
                        success().map(|message| message.u32(port.into()))
                    }
                    Ok(_) => success(),
                    Err(_) => None,
                }
            }
            GlobalRequest::Cancel(at) => success().filter(|_| shared.listeners().cancel(&at)),
            GlobalRequest::Unknown => None,
        };
        if wants_reply && link.send(Command::Answer(answer)).await.is_err() {
            return;
        }
        answered.send_modify(|count| *count += 1);
    }
}
