//! The reverse proxy: `http://PORT.VM.localhost:7788/` shows what listens on a port of a VM's guest.
//!
//! Browsers resolve `*.localhost` to loopback by themselves. One listener serves all VMs: the request's `Host` names
//! the VM and the port ([`target`]). A request with any other `Host` gets an error page, so that no other web site can
//! use the proxy under a name of its own (DNS rebinding). Every request is a connection to the guest ([`forward`]).
//! The guest is hostile: its response is only passed on.

mod forward;
mod limits;
mod page;
mod target;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use banger_api::ProxyStatus;
use banger_engine::Engine;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use limits::{MAX_HEAD, MAX_HEADERS};

/// Maximum number of connections at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 512;

/// Timeout for a client to send a request's head. Between two requests, the connection may be idle as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Delay after a failed accept, for example when this process has too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The proxy's listeners.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    listeners: io::Result<Vec<TcpListener>>,
}

impl Proxy {
    /// Listens on `port` of loopback. A taken port is no failure of the daemon.
    pub(crate) async fn bind(port: u16) -> Self {
        let listeners = listen(port).await;
        if let Err(error) = &listeners {
            tracing::warn!(port, %error, "the reverse proxy cannot listen");
        }
        Self { port, listeners }
    }

    /// Returns its state.
    pub(crate) fn status(&self) -> ProxyStatus {
        let describe = |error: &io::Error| match Engine::owner_of_port(self.port) {
            Some(owner) if error.kind() == io::ErrorKind::AddrInUse => {
                format!("port {} of this host is used by {owner}", self.port)
            }
            _ => format!("cannot listen on port {}: {error}", self.port),
        };
        ProxyStatus { port: self.port, error: self.listeners.as_ref().err().map(describe) }
    }

    /// Starts to serve.
    pub(crate) fn start(self, engine: &Engine) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        for listener in self.listeners.into_iter().flatten() {
            tokio::spawn(serve(listener, self.port, engine.clone(), slots.clone()));
        }
    }
}

async fn listen(port: u16) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(second) => Ok(vec![first, second]),
        // Browsers may try this address first.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // The host has no IPv6.
        Err(_) => Ok(vec![first]),
    }
}

async fn serve(listener: TcpListener, port: u16, engine: Engine, slots: Arc<Semaphore>) {
    loop {
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, from)) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    serve_client(client, from, port, engine).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the reverse proxy cannot accept a connection");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn serve_client(client: TcpStream, from: SocketAddr, port: u16, engine: Engine) {
    // Small messages are sent without delay.
    let _ = client.set_nodelay(true);
    let engine = &engine;
    let service = service_fn(move |request| async move {
        Ok::<_, std::convert::Infallible>(forward::respond(engine, request, from.ip(), port).await)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    if let Err(error) = http.serve_connection(TokioIo::new(client), service).with_upgrades().await {
        tracing::debug!(%error, "a connection to the reverse proxy ended");
    }
}
