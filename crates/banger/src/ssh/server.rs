//! ssh's requests, channel by channel.
//!
//! Nothing here waits for the guest. A channel's own task waits, or the task that answers global requests in order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use banger_proto::{Endpoint, TerminalSize};
use tokio::sync::mpsc;

use super::{
    channel::{Channel, Command, Control, Link, Refusal},
    connection::{Answers, number},
    forward,
    session::{self, Asked, SessionRequest},
    shared::Shared,
    wire::{Fields, Message, WireError},
};

/// Maximum number of a session's variables, and maximum size of each in bytes.
const VARIABLES: usize = 100;
const VARIABLE: usize = 32 << 10;

/// Maximum number of unanswered global requests.
const WAITING: usize = 100;

/// A connection's sessions and forwards.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    link: Link,
    user: Option<String>,
    /// Sessions that do not run yet.
    asked: HashMap<u32, Asked>,
    global: mpsc::Sender<Global>,
}

/// A request that does not concern a channel.
#[derive(Debug)]
struct Global {
    what: Asks,
    user: Option<String>,
    wants_reply: bool,
}

#[derive(Debug)]
enum Asks {
    Listen(Endpoint),
    Cancel(Endpoint),
    /// An unknown request.
    Else,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, link: Link) -> Self {
        let (global, queue) = mpsc::channel(WAITING);
        tokio::spawn(answer(shared.clone(), link.clone(), queue));
        Self { shared, link, user: None, asked: HashMap::new(), global }
    }

    fn open_session(&mut self, channel: Channel) -> Result<(), Refusal> {
        let place = self.shared.place().ok_or(Refusal::TooMany)?;
        let (user, env) = (self.user.clone(), BTreeMap::new());
        let asked = Asked { place, user, env, terminal: None, agent: false, channel };
        self.asked.insert(asked.channel.number(), asked);
        Ok(())
    }
}

impl Answers for Server {
    fn enter(&mut self, user: String) {
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
        let Some(place) = self.shared.place() else { return Ok(Some(Err(Refusal::TooMany))) };
        let (shared, link, user) = (self.shared.clone(), self.link.clone(), self.user.clone());
        tokio::spawn(async move {
            forward::direct(&shared, &link, to, user, channel).await;
            drop(place);
        });
        Ok(None)
    }

    fn closed(&mut self, channel: u32) {
        self.asked.remove(&channel);
    }

    fn request(&mut self, channel: u32, what: &str, fields: &mut Fields) -> Result<bool, WireError> {
        let Some(asked) = self.asked.get_mut(&channel) else { return Ok(false) };
        let program = match what {
            "pty-req" => {
                let (term, Control::Resize(size)) =
                    (fields.text()?, Control::resize(fields.u32()?, fields.u32()?))
                else {
                    return Ok(false);
                };
                return Ok(with_terminal(asked, term, size));
            }
            "env" => return Ok(set_variable(asked, fields.text()?, fields.text()?)),
            "auth-agent-req@openssh.com" => {
                asked.agent = true;
                return Ok(true);
            }
            "shell" => SessionRequest::Shell,
            "exec" => SessionRequest::Line(fields.bytes()?.to_vec()),
            "subsystem" if fields.text()? == "sftp" => SessionRequest::Sftp,
            _ => return Ok(false),
        };
        let asked = self.asked.remove(&channel);
        let run = asked.map(|asked| session::run(self.shared.clone(), self.link.clone(), asked, program));
        Ok(run.map(tokio::spawn).is_some())
    }

    fn global(&mut self, what: &str, wants_reply: bool, fields: &mut Fields) -> Result<(), WireError> {
        let tcp = |fields: &mut Fields| -> Result<Option<Endpoint>, WireError> {
            let (host, port) = (fields.text()?, fields.u32()?);
            Ok(u16::try_from(port).ok().map(|port| Endpoint::Tcp { host, port }))
        };
        let unix = |fields: &mut Fields| -> Result<Option<Endpoint>, WireError> {
            Ok(Some(Endpoint::Unix { path: fields.bytes()?.to_vec() }))
        };
        let what = match what {
            "tcpip-forward" => tcp(fields)?.map(Asks::Listen),
            "cancel-tcpip-forward" => tcp(fields)?.map(Asks::Cancel),
            "streamlocal-forward@openssh.com" => unix(fields)?.map(Asks::Listen),
            "cancel-streamlocal-forward@openssh.com" => unix(fields)?.map(Asks::Cancel),
            _ => None,
        };
        let global = Global { what: what.unwrap_or(Asks::Else), user: self.user.clone(), wants_reply };
        self.global.try_send(global).map_err(|_| WireError::Unexpected(number::GLOBAL_REQUEST))
    }
}

/// Returns whether ssh may set this variable: those that Debian's server accepts, and those about colour.
fn is_taken(name: &str) -> bool {
    name == "LANG" || name.starts_with("LC_") || matches!(name, "COLORTERM" | "NO_COLOR")
}

fn set_variable(asked: &mut Asked, name: String, value: String) -> bool {
    let fits = name.len() + value.len() <= VARIABLE && asked.env.len() < VARIABLES;
    if fits && is_taken(&name) {
        asked.env.insert(name, value);
        return true;
    }
    false
}

fn with_terminal(asked: &mut Asked, term: String, size: TerminalSize) -> bool {
    asked.terminal = Some(size);
    if !term.is_empty() && term.len() <= VARIABLE {
        asked.env.insert("TERM".to_owned(), term);
    }
    true
}

/// Answers global requests in order.
async fn answer(shared: Arc<Shared>, link: Link, mut queue: mpsc::Receiver<Global>) {
    while let Some(Global { what, user, wants_reply }) = queue.recv().await {
        let success = || Some(Message::new(number::REQUEST_SUCCESS));
        let answer = match what {
            Asks::Listen(at) => {
                let any = matches!(at, Endpoint::Tcp { port: 0, .. });
                // ssh reports only the refusal; the protocol has no field for the reason.
                match forward::listen(&shared, &link, at, user).await {
                    Ok(Endpoint::Tcp { port, .. }) if any => {
                        success().map(|message| message.u32(port.into()))
                    }
                    Ok(_) => success(),
                    Err(_) => None,
                }
            }
            Asks::Cancel(at) => success().filter(|_| shared.cancel_listener(&at)),
            Asks::Else => None,
        };
        if wants_reply && link.send(Command::Answer(answer)).await.is_err() {
            return;
        }
    }
}
