//! The routes of the API, a short function each: take the request apart, ask the engine, put the answer together.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{FromRequest, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use banger_api::{
    ApiError, BUILD_HEADER, CreateVm, DaemonStatus, DeleteVm, ErrorKind, Image, Kernel, LogSource, Name,
    Operation, Pull, Vm, VmState,
};
use banger_engine::{Events, KernelFormat, Tar};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{passed::PassedFile, serve::Daemon, upload::Upload};

type Shared = State<Arc<Daemon>>;
type Answer<T> = Result<Json<T>, Failure>;

/// All routes.
pub(crate) fn routes(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/daemon", get(daemon_status))
        .route("/v1/daemon/stop", post(stop_daemon))
        .route("/v1/operations", get(operations))
        .route("/v1/operations/{id}", delete(cancel))
        .route("/v1/vms", get(vms).post(run_vm))
        .route("/v1/vms/{vm}", get(vm).delete(delete_vm))
        .route("/v1/vms/{vm}/ended", get(vm_ended))
        .route("/v1/vms/{vm}/start", post(start_vm))
        .route("/v1/vms/{vm}/stop", post(stop_vm))
        .route("/v1/vms/{vm}/logs", get(logs))
        .route("/v1/vms/{vm}/tunnel", get(tunnel))
        .route("/v1/images", get(images).post(import_image))
        .route("/v1/images/pull", post(pull_image))
        .route("/v1/images/{image}", get(image).delete(delete_image))
        .route("/v1/kernels", get(kernels).post(import_kernel))
        .route("/v1/kernels/pull", post(pull_kernel))
        .route("/v1/kernels/{kernel}", get(kernel).delete(delete_kernel))
        .fallback(|| async {
            Failure(ApiError::new(ErrorKind::NotFound, "there is no such route in this API"))
        })
        .layer(middleware::from_fn_with_state(daemon.clone(), same_build))
        .with_state(daemon)
}

/// An error as a response.
#[derive(Debug)]
struct Failure(ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// A JSON body, or an error of ours that says what is wrong with it.
struct Checked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Checked<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let invalid =
            |why: String| Failure(ApiError::new(ErrorKind::Invalid, format!("malformed request: {why}")));
        let body = Bytes::from_request(request, state).await.map_err(|error| invalid(error.to_string()))?;
        serde_json::from_slice(&body).map(Self).map_err(|error| invalid(error.to_string()))
    }
}

/// Turns away, before anything is done, a client that would have started another build of the daemon.
async fn same_build(State(daemon): Shared, headers: HeaderMap, request: Request, next: Next) -> Response {
    let ours = daemon.build.to_string();
    match headers.get(BUILD_HEADER) {
        Some(theirs) if theirs.as_bytes() != ours.as_bytes() => {
            let error = ApiError::new(ErrorKind::VersionSkew, "bangerd is of another build than this banger");
            Failure(error.hint("run `banger daemon restart`; VMs run on")).into_response()
        }
        _ => next.run(request).await,
    }
}

/// An operation's events as lines of JSON. When the client hangs up, the body is dropped, and with it the events.
fn stream_of(events: Events) -> Response {
    let lines = stream::unfold(events, |mut events| async move {
        let event = events.recv().await?;
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), events))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// A request's body as something synchronous work can read.
fn reader_of(body: Body) -> SyncIoBridge<StreamReader<Upload, Bytes>> {
    SyncIoBridge::new(StreamReader::new(Upload(Some(body.into_data_stream()))))
}

async fn daemon_status(State(daemon): Shared) -> Answer<DaemonStatus> {
    let engine = &daemon.engine;
    let (vmm, kvm) = engine.describe_vmm().await;
    let running = engine.vms()?.iter().filter(|vm| vm.state == VmState::Running).count();
    Ok(Json(DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: daemon.build.to_string(),
        pid: std::process::id(),
        uptime_s: daemon.started.elapsed().as_secs(),
        resident: resident(),
        running_vms: u32::try_from(running).unwrap_or(u32::MAX),
        operations: u32::try_from(engine.operations().len()).unwrap_or(u32::MAX),
        socket: engine.dirs().socket().display().to_string(),
        state_dir: engine.dirs().state.display().to_string(),
        log: engine.dirs().daemon_log().display().to_string(),
        vmm,
        kvm,
    }))
}

/// This process's resident memory in bytes (`/proc/self/statm`, second field, in pages).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[derive(Deserialize)]
struct Stop {
    #[serde(default)]
    force: bool,
}

async fn stop_daemon(State(daemon): Shared, Query(Stop { force }): Query<Stop>) -> Answer<Value> {
    let under_way = daemon.engine.operations();
    let sessions = daemon.sessions.load(Ordering::Relaxed);
    let busy = match under_way.first() {
        Some(operation) => Some(format!("{} ({})", operation.target, operation.stage)),
        None if sessions > 0 => Some(format!("{sessions} open session(s) with VMs")),
        None => None,
    };
    if let (Some(busy), false) = (busy, force) {
        let hint = "wait for it to end, or stop all the same with: banger daemon stop --force";
        return Err(ApiError::new(ErrorKind::Busy, format!("bangerd is busy: {busy}")).hint(hint).into());
    }
    daemon.stop.notify_one();
    Ok(Json(json!({})))
}

async fn operations(State(daemon): Shared) -> Json<Vec<Operation>> {
    Json(daemon.engine.operations())
}

async fn cancel(State(daemon): Shared, Path(id): Path<String>) -> Answer<Value> {
    daemon.engine.cancel(&id)?;
    Ok(Json(json!({})))
}

async fn vms(State(daemon): Shared) -> Answer<Vec<Vm>> {
    Ok(Json(daemon.engine.vms()?))
}

async fn run_vm(State(daemon): Shared, Checked(request): Checked<CreateVm>) -> Result<Response, Failure> {
    Ok(stream_of(daemon.engine.run_vm(request)?))
}

async fn vm(State(daemon): Shared, Path(vm): Path<String>) -> Answer<Vm> {
    Ok(Json(daemon.engine.vm(&vm)?))
}

async fn vm_ended(State(daemon): Shared, Path(vm): Path<String>) -> Answer<Vm> {
    Ok(Json(daemon.engine.vm_ended(&vm).await?))
}

async fn start_vm(State(daemon): Shared, Path(vm): Path<String>) -> Result<Response, Failure> {
    Ok(stream_of(daemon.engine.start_vm(&vm)?))
}

async fn stop_vm(State(daemon): Shared, Path(vm): Path<String>) -> Result<Response, Failure> {
    Ok(stream_of(daemon.engine.stop_vm(&vm)?))
}

async fn delete_vm(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(options): Query<DeleteVm>,
) -> Result<Response, Failure> {
    Ok(stream_of(daemon.engine.delete_vm(&vm, options.force)?))
}

#[derive(Deserialize)]
struct Logs {
    #[serde(default)]
    source: LogSource,
}

async fn logs(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(logs): Query<Logs>,
) -> Result<Vec<u8>, Failure> {
    Ok(daemon.engine.logs(&vm, logs.source)?)
}

#[derive(Deserialize)]
struct Tunnel {
    port: u32,
}

/// Upgrades the connection to a raw stream to a port of the guest.
async fn tunnel(
    State(daemon): Shared,
    Path(vm): Path<String>,
    Query(Tunnel { port }): Query<Tunnel>,
    mut request: Request,
) -> Result<Response, Failure> {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut guest = daemon.engine.tunnel(&vm, port).await?;
    daemon.sessions.fetch_add(1, Ordering::Relaxed);
    tokio::spawn(async move {
        let spliced = match upgrade.await {
            Ok(client) => {
                tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut guest).await.map(|_| ())
            }
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = spliced {
            tracing::debug!(%error, "tunnel broke");
        }
        daemon.sessions.fetch_sub(1, Ordering::Relaxed);
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "banger-tunnel")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn images(State(daemon): Shared) -> Answer<Vec<Image>> {
    Ok(Json(daemon.engine.images()?))
}

async fn image(State(daemon): Shared, Path(image): Path<String>) -> Answer<Image> {
    Ok(Json(daemon.engine.image(&image)?))
}

#[derive(Deserialize)]
struct ImportImage {
    name: Name,
}

/// The tar is the body, or a file that came with the request.
async fn import_image(
    State(daemon): Shared,
    Query(import): Query<ImportImage>,
    Extension(passed): Extension<PassedFile>,
    body: Body,
) -> Response {
    let tar = passed.take().map_or_else(|| Tar::Stream(reader_of(body)), Tar::File);
    stream_of(daemon.engine.import_image(import.name, tar))
}

async fn pull_image(State(daemon): Shared, Checked(pull): Checked<Pull>) -> Response {
    stream_of(daemon.engine.pull_image(pull.name))
}

async fn delete_image(State(daemon): Shared, Path(image): Path<String>) -> Answer<Value> {
    daemon.engine.delete_image(&image)?;
    Ok(Json(json!({})))
}

async fn kernels(State(daemon): Shared) -> Answer<Vec<Kernel>> {
    Ok(Json(daemon.engine.kernels()?))
}

async fn kernel(State(daemon): Shared, Path(kernel): Path<String>) -> Answer<Kernel> {
    Ok(Json(daemon.engine.kernel(&kernel)?))
}

#[derive(Deserialize)]
struct ImportKernel {
    name: Name,
    format: Format,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Deb,
    Files,
}

async fn import_kernel(State(daemon): Shared, Query(import): Query<ImportKernel>, body: Body) -> Response {
    let format = match import.format {
        Format::Deb => KernelFormat::Deb,
        Format::Files => KernelFormat::Files,
    };
    stream_of(daemon.engine.import_kernel(import.name, format, reader_of(body)))
}

async fn pull_kernel(State(daemon): Shared, Checked(pull): Checked<Pull>) -> Response {
    stream_of(daemon.engine.pull_kernel(pull.name))
}

async fn delete_kernel(State(daemon): Shared, Path(kernel): Path<String>) -> Answer<Value> {
    daemon.engine.delete_kernel(&kernel)?;
    Ok(Json(json!({})))
}
