//! The daemon: HTTP on the socket where `banger` looks for it. VMs exist only in its memory, and a directory is the
//! guest of each: deleting a VM deletes its directory.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{ExitCode, exit},
    rc::Rc,
    thread,
};

use anyhow::{Context, Result};
use banger_agent::Server;
use banger_api::{ApiError, Dirs, ErrorKind, Id, OperationEvent, Size, SubjectKind, Vm, VmState};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::watch, task::LocalSet, task::spawn_local};

use crate::{
    guest::{self, Fake},
    host,
    operation::{OnDisconnect, Operation, operation},
    phases::Phases,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Daemon {
    root: PathBuf,
    phases: Phases,
    agent: Rc<Server<Fake>>,
    vms: RefCell<BTreeMap<String, Vm>>,
    running: RefCell<HashMap<String, watch::Sender<bool>>>,
    last_id: RefCell<u8>,
}

pub(crate) fn main() -> Result<ExitCode> {
    let dirs = Dirs::find(|name| env::var_os(name).map(PathBuf::from))?;
    let home = env::var_os("HOME").map(PathBuf::from).context("HOME")?;
    let root = home.parent().context("HOME has no parent")?.to_owned();
    exit_with_tests(&root)?;
    // As in the real daemon.
    let _ = rustix::process::setsid();
    let phases = Phases::of(&root);
    let name = if env::args().nth(1).as_deref() == Some("doctor") { "doctor" } else { "start" };
    if phases.reach(name) {
        loop {
            thread::park();
        }
    }
    if name == "doctor" {
        writeln!(io::stdout(), "[]")?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        fs::create_dir_all(&dirs.runtime)?;
        let listener = UnixListener::bind(dirs.socket())?;
        writeln!(io::stdout(), r#"{{"ready":true}}"#)?;
        let daemon = Rc::new(Daemon {
            agent: guest::start(phases.clone()),
            vms: RefCell::new(
                host::vms(&root)?.into_iter().map(|name| (name.clone(), vm(&root, &name, 0))).collect(),
            ),
            running: RefCell::default(),
            last_id: RefCell::new(1),
            root,
            phases,
        });
        loop {
            let (stream, _) = listener.accept().await?;
            let daemon = daemon.clone();
            spawn_local(async move {
                let service = service_fn(move |request| {
                    let daemon = daemon.clone();
                    async move { Ok::<_, Infallible>(daemon.respond(request).await) }
                });
                // A client that disconnects is normal.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    })
}

/// Makes this process exit when the test process exits, however that happens.
pub(crate) fn exit_with_tests(root: &Path) -> Result<()> {
    let lock = File::open(root.with_file_name(host::LOCK)).context("the tests' lock")?;
    thread::spawn(move || {
        // The test process holds the lock until it exits.
        let _ = lock.lock_shared();
        exit(1);
    });
    Ok(())
}

fn vm(root: &Path, name: &str, id: u8) -> Vm {
    let mut bytes = [id; 8];
    for (byte, letter) in bytes.iter_mut().zip(name.bytes()) {
        *byte ^= letter;
    }
    Vm {
        id: Id::from_random(bytes),
        name: name.parse().unwrap_or_else(|_| exit(1)),
        state: VmState::Running,
        image: "tiny".to_owned(),
        kernel: "kernel".to_owned(),
        vcpu: 1,
        memory: Size::mib(128),
        system_overlay_size: Size::mib(64),
        disk_size: Size::mib(64),
        network_kind: banger_api::NetworkKind::User,
        egress: banger_api::Egress::None,
        allow_host: banger_api::HostPorts::default(),
        rm: false,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        started_at: None,
        last_used_at: None,
        last_error: None,
        vmm: None,
        accel: None,
        ran_with: None,
        network: None,
        published: Vec::new(),
        publish_all: false,
        pid: None,
        console: root.join("console").display().to_string(),
    }
}

impl Daemon {
    async fn respond(self: Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        self.phases.pass(&format!("{method} {path}")).await;
        let words: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        match (&method, words.as_slice()) {
            (&Method::GET, ["daemon"]) => json_response(&Value::Null),
            (&Method::GET, ["vms"]) => json_response(&self.vms.borrow().values().collect::<Vec<_>>()),
            (&Method::POST, ["vms"]) => self.create(request).await,
            (&Method::GET, ["vms", name]) => match self.find(name) {
                Ok(vm) => json_response(&vm),
                Err(error) => error_response(&error),
            },
            (&Method::DELETE, ["vms", name]) => self.change(name, "delete", OnDisconnect::Continue),
            (&Method::PATCH, ["vms", name]) => self.change(name, "set", OnDisconnect::Cancel),
            (&Method::GET, ["vms", name, "tunnel"]) => self.tunnel(name, request),
            (&Method::GET, ["vms", _, "logs"] | ["daemon", "logs"] | ["events"]) => followed(),
            (&Method::POST, ["vms", name, action]) => {
                let (kind, on_disconnect) = match *action {
                    "stop" => ("stop", OnDisconnect::Continue),
                    "restart" => ("restart", OnDisconnect::Continue),
                    "start" => ("start", OnDisconnect::Cancel),
                    "pause" => ("pause", OnDisconnect::Cancel),
                    "resume" => ("resume", OnDisconnect::Cancel),
                    "kill" => ("kill", OnDisconnect::Cancel),
                    _ => ("commit", OnDisconnect::Cancel),
                };
                self.change(name, kind, on_disconnect)
            }
            (&Method::GET, ["images"]) => json_response(&[image()]),
            (&Method::GET, ["images", _]) => json_response(&image()),
            (&Method::GET, ["catalog", _] | ["kernels"] | ["operations"] | ["stats"]) => {
                json_response(&[(); 0])
            }
            (&Method::POST, ["images" | "kernels" | "bundles" | "catalog", ..]) => {
                self.start("image", OnDisconnect::Cancel, || Ok(image()))
            }
            (&Method::DELETE, ["operations", id]) => {
                if let Some(cancel) = self.running.borrow().get(*id) {
                    cancel.send_replace(true);
                }
                json_response(&Value::Null)
            }
            _ => error_response(&ApiError::new(ErrorKind::NotFound, format!("{method} {path}"))),
        }
    }

    fn find(&self, reference: &str) -> Result<Vm, ApiError> {
        let vms = self.vms.borrow();
        let vm = vms.values().find(|vm| vm.name.as_str() == reference || vm.id.as_str() == reference);
        vm.cloned()
            .ok_or_else(|| ApiError::unresolved(SubjectKind::Vm, reference, banger_api::RefError::NotFound))
    }

    fn next_id(&self) -> u8 {
        let mut last = self.last_id.borrow_mut();
        *last += 1;
        *last
    }

    async fn create(self: Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let Ok(body) = request.into_body().collect().await else { return followed() };
        let request: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let name = request["name"].as_str().unwrap_or("new").to_owned();
        let rm = request["rm"] == true && request["detach"] != true;
        let vm = Vm { rm, ..vm(&self.root, &name, self.next_id()) };
        let (operation, events) = self.begin("create");
        let closed = operation.events.clone();
        let daemon = self.clone();
        spawn_local(async move {
            let (dir, added) = (daemon.guest_dir(&vm), vm.clone());
            let add = || {
                fs::create_dir_all(dir).map_err(|error| ApiError::new(ErrorKind::Io, error.to_string()))?;
                daemon.vms.borrow_mut().insert(added.name.to_string(), added.clone());
                Ok(json!(added))
            };
            if operation.run(&daemon.phases, OnDisconnect::Cancel, add).await && rm {
                closed.closed().await;
                daemon.delete(&vm);
                daemon.phases.report("session ended");
            }
        });
        events
    }

    /// Starts an operation on a VM.
    fn change(self: Rc<Self>, name: &str, kind: &'static str, on_disconnect: OnDisconnect) -> Response<Body> {
        let vm = match self.find(name) {
            Ok(vm) => vm,
            Err(error) => return error_response(&error),
        };
        let daemon = self.clone();
        self.start(kind, on_disconnect, move || {
            let state = match kind {
                "delete" => {
                    daemon.delete(&vm);
                    return Ok(Value::Null);
                }
                "commit" => return Ok(image()),
                "stop" | "kill" => VmState::Stopped,
                "pause" => VmState::Paused,
                _ => VmState::Running,
            };
            let changed = Vm { state, ..vm };
            daemon.vms.borrow_mut().insert(changed.name.to_string(), changed.clone());
            Ok(json!(changed))
        })
    }

    fn start(
        self: Rc<Self>,
        kind: &'static str,
        on_disconnect: OnDisconnect,
        work: impl FnOnce() -> Result<Value, ApiError> + 'static,
    ) -> Response<Body> {
        let (operation, events) = self.begin(kind);
        spawn_local(async move { operation.run(&self.phases, on_disconnect, work).await });
        events
    }

    fn begin(&self, kind: &'static str) -> (Operation, Response<Body>) {
        let (operation, events, cancel) = operation(Id::from_random([self.next_id(); 8]), kind);
        self.running.borrow_mut().insert(operation.id.to_string(), cancel);
        let lines = stream::unfold(events, |mut events| async move {
            let event: OperationEvent = events.recv().await?;
            let line = format!("{}\n", serde_json::to_string(&event).ok()?);
            Some((Ok(Frame::data(Bytes::from(line))), events))
        });
        (operation, Response::new(StreamBody::new(lines).boxed_unsync()))
    }

    fn delete(&self, vm: &Vm) {
        if self.vms.borrow_mut().remove(vm.name.as_str()).is_some() {
            // The test may have removed it.
            let _ = fs::remove_dir_all(self.guest_dir(vm));
        }
    }

    fn guest_dir(&self, vm: &Vm) -> PathBuf {
        host::guest_dir(&self.root, vm.name.as_str())
    }

    fn tunnel(self: Rc<Self>, name: &str, mut request: Request<Incoming>) -> Response<Body> {
        if let Err(error) = self.find(name) {
            return error_response(&error);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        spawn_local(async move {
            if let Ok(stream) = upgrade.await {
                self.agent.serve(TokioIo::new(stream)).await;
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "banger-tunnel");
        response.body(Full::default().boxed_unsync()).unwrap_or_default()
    }
}

fn image() -> Value {
    json!({
        "id": "0123456789abcdef", "name": "tiny", "size": 0, "disk_usage": 0, "entries": 1, "source": "tar",
        "created_at": "2026-01-01T00:00:00Z", "used_by": [], "init": "/sbin/init",
    })
}

fn json_response(value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Response::new(Full::from(bytes).boxed_unsync())
}

fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Returns a line, and never ends.
fn followed() -> Response<Body> {
    let lines = stream::unfold(true, |first| async move {
        if !first {
            std::future::pending::<()>().await;
        }
        Some((Ok(Frame::data(Bytes::from_static(b"followed\n"))), false))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}
