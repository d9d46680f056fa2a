//! The daemon's loop: connections in, requests to the routes, until it is told to stop.

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
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::{
    daemon::{Daemon, Peer},
    passed::Receiving,
    routes,
};

/// Connections at a time; each holds a few KiB, and a stream holds one as long as it lasts.
const CONNECTIONS: u32 = 512;

/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(60);

/// How long the undoing of operations may hold up the end.
const UNDO: Duration = Duration::from_secs(20);

/// How long answers that are on their way may hold up the end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves until a stop is asked for, by request or signal. VMs run on.
pub(crate) async fn serve(daemon: Daemon, listener: UnixListener) -> Result<(), ApiError> {
    let failed =
        |error: std::io::Error| ApiError::new(ErrorKind::Io, format!("bangerd cannot serve: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let daemon = Arc::new(daemon);
    let routes = routes::routes(daemon.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    loop {
        let place = places.clone().acquire_owned().await;
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Of one connection, or for want of descriptors: others may go better, but not at full speed.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
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
        let (stream, passed) = Receiving::new(stream);
        let router = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(passed.clone());
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let stopping = daemon.stopping.clone();
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD);
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
            drop(place);
        });
    }
    drop(listener);
    // The socket stays: the next daemon, which holds the lock then, replaces it.
    end_operations(&daemon.engine).await;
    daemon.stopping.cancel();
    if tokio::time::timeout(LAST_WORDS, places.acquire_many(CONNECTIONS)).await.is_err() {
        tracing::warn!("some connections were cut off");
    }
    daemon.engine.close();
    tracing::info!("bangerd stops; VMs run on");
    Ok(())
}

/// The socket's mode keeps others out already; its peer's credentials make sure.
fn same_user(stream: &UnixStream) -> Option<Peer> {
    let own = rustix::process::getuid().as_raw();
    let uid = stream.peer_cred().ok()?.uid();
    (uid == own || uid == 0).then_some(Peer(uid))
}

/// Cancels what is under way, and waits for the undoing.
async fn end_operations(engine: &Engine) {
    for operation in engine.under_way() {
        tracing::info!(operation = %operation.id, kind = ?operation.kind, "cancelled: bangerd stops");
        // One that has just ended needs no cancelling.
        let _ = engine.cancel(operation.id.as_str());
    }
    if tokio::time::timeout(UNDO, engine.idle()).await.is_err() {
        tracing::warn!("operations were left half done; the next start undoes them");
    }
}
