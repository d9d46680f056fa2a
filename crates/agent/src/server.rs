//! The agent's server: a task for each connection of the host's.

use std::{
    cell::RefCell, collections::BTreeMap, fs, io, process::ExitCode, rc::Rc, sync::Arc, time::Duration,
};

use banger_proto::{AGENT_PORT, Exec, FailureKind, FrameError, GENERATION, Greeting, Reply, Request};
use tokio::{
    sync::Semaphore,
    task::{LocalSet, spawn_local},
    time::timeout,
};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::{
    children::Children,
    configure::{self, variables},
    connection,
    console::say,
    copy, exec,
    failure::Failure,
    inspect,
    marks::Booted,
    ports,
    power::{self, Power},
    sftp,
    sockets::{self, Callers},
    workspace,
};

/// Connections at a time: each exec holds four descriptors of the 1024 that a process has by default.
const CONNECTIONS: usize = 200;

/// How long the host may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(30);

/// What each connection works with.
#[derive(Debug)]
struct Server {
    booted: Booted,
    boot_id: String,
    power: Power,
    children: Children,
    callers: Callers,
    /// The image's variables, once the host has told them.
    env: RefCell<BTreeMap<String, String>>,
}

/// Serves until the guest ends.
pub(crate) fn run(mut booted: Booted, power: Power) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        LocalSet::new().block_on(&runtime, async {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
            booted.mark("listening");
            let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let children = Children::default();
            spawn_local(children.clone().reap());
            let boot_id = boot_id.trim().to_owned();
            let (callers, env) = (Callers::default(), RefCell::default());
            let server = Rc::new(Server { booted, boot_id, power, children, callers, env });
            if let Power::Own(_) = &server.power {
                spawn_local(power::on_ctrl_alt_del(server.power.clone()));
            }
            spawn_local(call_the_host(server.clone()));
            accept(server, listener).await
        })
    });
    if let Err(error) = served {
        say(&format!("cannot serve: {error}"));
    }
    ExitCode::FAILURE
}

/// Dials the host once, so that it need not ask again and again whether the guest is up.
async fn call_the_host(server: Rc<Server>) {
    match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, server.booted.ready_port)).await {
        Ok(stream) => serve(server, stream).await,
        // Nobody there waits: the guest restarted by itself, say.
        Err(error) => say(&format!("the host does not take the call: {error}")),
    }
}

async fn accept(server: Rc<Server>, listener: VsockListener) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, from) = listener.accept().await?;
        // Any user of the guest can dial this port too, and would be root by it.
        if from.cid() != VMADDR_CID_HOST {
            continue;
        }
        let (server, place) = (server.clone(), places.clone().try_acquire_owned());
        spawn_local(async move {
            match place {
                Ok(_place) => serve(server, stream).await,
                Err(_) => say("more connections than the agent can serve: one was refused"),
            }
        });
    }
}

/// Carries out the one request of a connection.
async fn serve(server: Rc<Server>, stream: VsockStream) {
    let (mut incoming, mut outgoing) = connection::split(stream);
    let greeting = Greeting {
        generation: GENERATION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: server.boot_id.clone(),
        boot: server.booted.marks.clone(),
        init: server.booted.init.clone(),
    };
    if outgoing.say(&greeting).await.is_err() {
        return;
    }
    let request = match timeout(REQUEST, incoming.next()).await {
        Ok(Ok(Some(frame))) => frame.parse::<Request>(),
        Ok(Err(error)) => Err(error),
        // The host has hung up, or is silent.
        Ok(Ok(None)) | Err(_) => return,
    };
    let grace = match &request {
        Ok(Request::PowerOff(request)) => Some(request.grace_ms.map(Duration::from_millis)),
        _ => None,
    };
    let reply = match request {
        Ok(Request::Connect(request)) => {
            return sockets::connect(request, incoming, outgoing, &server.children).await;
        }
        Ok(Request::Listen(request)) => {
            return sockets::listen(request, incoming, outgoing, &server.children, &server.callers).await;
        }
        Ok(Request::Take(request)) => {
            return sockets::take(request, incoming, outgoing, &server.callers).await;
        }
        Ok(request) => match program(&request) {
            Some(Ok(program)) => {
                let env = server.env.borrow().clone();
                return exec::exec(&program, &env, incoming, outgoing, &server.children).await;
            }
            Some(Err(error)) => Failure::new(FailureKind::Internal, error.to_string()).into(),
            None => answer(&server, &request).await,
        },
        Err(error) => malformed(&error).into(),
    };
    // A host that has hung up does not want the answer.
    let _ = outgoing.say(&reply).await;
    outgoing.finish().await;
    if let Some(grace) = grace {
        server.power.off(grace).await;
    }
}

/// The program that is to be run for `request`, if one is.
fn program(request: &Request) -> Option<serde_json::Result<Exec>> {
    match request {
        Request::Exec(program) => Some(Ok(program.clone())),
        Request::Copy(request) => Some(copy::as_exec(request)),
        Request::Sftp(request) => Some(Ok(sftp::as_exec(request.clone()))),
        Request::Workspace(request) => Some(workspace::as_exec(request)),
        _ => None,
    }
}

async fn answer(server: &Server, request: &Request) -> Reply {
    match request {
        Request::Ping => Reply::Pong,
        Request::Configure(configure) => match configure::configure(configure).await {
            Ok(()) => {
                if !configure.env.is_empty() {
                    server.env.replace(variables::by_name(&configure.env));
                }
                Reply::Configured
            }
            Err(failure) => failure.into(),
        },
        Request::PowerOff(_) => {
            rustix::fs::sync();
            Reply::PoweringOff
        }
        Request::Inspect => Reply::Inspected(inspect::inspect()),
        Request::Ports => Reply::Ports { listeners: ports::ports().await },
        _ => Failure::new(FailureKind::Unsupported, "this agent is older than the request; restart the VM")
            .into(),
    }
}

fn malformed(error: &FrameError) -> Failure {
    Failure::new(FailureKind::Invalid, error.to_string())
}
