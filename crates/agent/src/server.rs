//! The agent's protocol: one request per connection, over any stream.

use std::{cell::RefCell, collections::BTreeMap, fs, rc::Rc, time::Duration};

use banger_proto::{Exec, FailureKind, FrameError, GENERATION, Greeting, Reply, Request};
use tokio::{task::spawn_local, time::timeout};

use crate::{
    boot_record::BootRecord,
    children::Children,
    configure::variables,
    connection,
    connections::Connections,
    copy, exec,
    failure::Failure,
    inspect,
    machine::Machine,
    ports,
    saved::Saved,
    sftp,
    sockets::{self, PendingConnections},
    stream::Duplex,
    workspace,
};

/// Timeout for the host to read the greeting and send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Speaks the agent's protocol on behalf of a machine.
#[derive(Debug)]
pub struct Server<M> {
    greeting: Greeting,
    machine: M,
    children: Children,
    pending: PendingConnections,
    connections: Connections,
    /// The image's variables, once the host has sent them.
    env: RefCell<BTreeMap<String, String>>,
    saved: Saved,
}

impl<M: Machine> Server<M> {
    /// Returns a server for `machine`, and reaps this process's children in a task of the current `LocalSet`.
    pub fn start(boot: BootRecord, machine: M) -> Rc<Self> {
        Self::with_saved(boot, machine, Saved::default())
    }

    /// Returns a server that knows what an earlier one has saved.
    pub(crate) fn with_saved(boot: BootRecord, machine: M, saved: Saved) -> Rc<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let children = Children::default();
        spawn_local(children.clone().reap());
        let greeting = Greeting {
            generation: GENERATION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id.trim().to_owned(),
            boot: boot.marks,
            init: boot.init,
        };
        let (pending, env) = (PendingConnections::default(), RefCell::new(saved.variables()));
        let connections = Connections::default();
        Rc::new(Self { greeting, machine, children, pending, connections, env, saved })
    }

    /// Starts the record of the connections of the guest's processes.
    pub(crate) async fn record_connections(&self) {
        self.connections.record().await;
    }

    /// Serves the one request of a connection.
    pub async fn serve(&self, stream: impl Duplex + 'static) {
        let (mut incoming, mut outgoing) = connection::split(stream);
        let request = async {
            outgoing.send_message(&self.greeting).await.ok()?;
            incoming.next().await.transpose()
        };
        let request = match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Some(Ok(frame))) => frame.parse::<Request>(),
            Ok(Some(Err(error))) => Err(error),
            // The host has closed the connection, or neither reads nor writes.
            Ok(None) | Err(_) => return,
        };
        let grace = match &request {
            Ok(Request::PowerOff(request)) => Some(request.grace_ms.map(Duration::from_millis)),
            _ => None,
        };
        let reply = match request {
            Ok(Request::Connect(request)) => {
                return sockets::connect(request, incoming, outgoing, &self.children).await;
            }
            Ok(Request::Listen(request)) => {
                return sockets::listen(request, incoming, outgoing, &self.children, &self.pending).await;
            }
            Ok(Request::Accept(request)) => {
                return sockets::accept(request, incoming, outgoing, &self.pending).await;
            }
            Ok(Request::Datagrams(request)) => return sockets::datagrams(request, incoming, outgoing).await,
            Ok(Request::WatchPorts) => return ports::watch(incoming, outgoing).await,
            Ok(request) => match program(&request) {
                Some(Ok(program)) => {
                    let command = self.machine.command(&program, &self.env.borrow());
                    return exec::exec(&program, command, incoming, outgoing, &self.children).await;
                }
                Some(Err(error)) => Failure::new(FailureKind::Internal, error.to_string()).into(),
                None => self.reply_to(&request).await,
            },
            Err(error) => malformed(&error).into(),
        };
        // The host may have closed the connection.
        let _ = outgoing.send_message(&reply).await;
        outgoing.finish().await;
        if let Some(grace) = grace {
            self.machine.power_off(grace).await;
        }
    }

    async fn reply_to(&self, request: &Request) -> Reply {
        match request {
            Request::Ping => Reply::Pong,
            Request::Configure(configure) => match self.machine.configure(configure).await {
                Ok(()) => {
                    if !configure.env.is_empty() {
                        let variables = variables::by_name(&configure.env);
                        self.saved.save(&variables);
                        self.env.replace(variables);
                    }
                    Reply::Configured
                }
                Err(failure) => failure.into(),
            },
            Request::PowerOff(_) => {
                self.machine.sync();
                Reply::PoweringOff
            }
            Request::Inspect => Reply::Inspected(inspect::inspect()),
            Request::Ports => Reply::Ports { listeners: ports::ports().await },
            Request::Connections => Reply::Connections { connections: self.connections.read() },
            _ => {
                Failure::new(FailureKind::Unsupported, "this agent is older and does not support the request")
                    .into()
            }
        }
    }
}

/// Returns the program to run for `request`, if it runs one.
fn program(request: &Request) -> Option<serde_json::Result<Exec>> {
    match request {
        Request::Exec(program) => Some(Ok(program.clone())),
        Request::Copy(request) => Some(copy::as_exec(request)),
        Request::Sftp(request) => Some(Ok(sftp::as_exec(request.clone()))),
        Request::Workspace(request) => Some(workspace::as_exec(request)),
        _ => None,
    }
}

fn malformed(error: &FrameError) -> Failure {
    Failure::new(FailureKind::Invalid, error.to_string())
}
