//! The daemon's main loop: accepts connections and routes requests, until a stop is requested.

use std::{pin::pin, sync::Arc, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_engine::Engine;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    daemon::{Daemon, Peer},
    fd_passing::FdReceivingStream,
    routes,
    socket::Socket,
};

/// Maximum number of connections; each needs a few KiB, and a stream occupies one while it lasts.
const MAX_CONNECTIONS: u32 = 512;

/// Timeout for a client to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a stop waits for operations to be undone.
const UNDO_TIMEOUT: Duration = Duration::from_secs(20);

/// Time that a stop waits for responses in progress.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until a request or a signal stops it. VMs continue to run.
pub(crate) async fn serve(daemon: Daemon, mut socket: Socket) -> Result<(), ApiError> {
    let failed =
        |error: std::io::Error| ApiError::new(ErrorKind::Io, format!("bangerd cannot serve: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let daemon = Arc::new(daemon);
    let routes = routes::routes(daemon.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    loop {
        let slot = slots.clone().acquire_owned().await;
        let stream = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok(stream) => stream,
                // The error of one connection, or too few descriptors: try others, but not at full speed.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = daemon.stop.notified() => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let Some(peer) = same_user(&stream) else {
            tracing::warn!("refused another user's connection");
            continue;
        };
        if is_of_vm(&stream, &daemon.engine) {
            tracing::warn!("refused the connection of a VM's process");
            continue;
        }
        let (stream, passed) = FdReceivingStream::new(stream);
        let router = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(passed.clone());
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let stopping = daemon.stopping.clone();
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(socket);
    // The socket stays: the next daemon, which then holds the lock, replaces it.
    end_operations(&daemon.engine).await;
    daemon.stopping.cancel();
    if tokio::time::timeout(RESPONSE_TIMEOUT, slots.acquire_many(MAX_CONNECTIONS)).await.is_err() {
        tracing::warn!("some connections were closed before their responses ended");
    }
    daemon.engine.close();
    tracing::info!("bangerd is stopping; VMs keep running");
    Ok(())
}

/// Returns the peer if it is this user or root. The socket's mode already excludes others; this makes sure.
fn same_user(stream: &UnixStream) -> Option<Peer> {
    let own_uid = rustix::process::getuid().as_raw();
    let uid = stream.peer_cred().ok()?.uid();
    (uid == own_uid || uid == 0).then_some(Peer(uid))
}

/// Returns whether the peer is a VM's process. Older kernels let such a process connect to any socket of its user.
fn is_of_vm(stream: &UnixStream, engine: &Engine) -> bool {
    let pid = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
    match pid.map(|pid| engine.vms.own_process(pid)).transpose() {
        Ok(is_of_vm) => is_of_vm.unwrap_or_default(),
        Err(error) => {
            tracing::error!(%error, "cannot look up the process of a connection");
            false
        }
    }
}

/// Cancels all running operations, and waits until they are undone.
async fn end_operations(engine: &Engine) {
    for operation in engine.running_operations() {
        tracing::info!(operation = %operation.id, kind = ?operation.kind, "cancelled: bangerd is stopping");
        // It may have ended just now.
        let _ = engine.cancel(operation.id.as_str());
    }
    if tokio::time::timeout(UNDO_TIMEOUT, engine.idle()).await.is_err() {
        tracing::warn!("operations did not finish; the next start undoes them");
    }
}
