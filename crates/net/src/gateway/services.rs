//! Connects a guest with services of the host's loopback, on the ports that its user has allowed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use banger_api::HostPorts;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Maximum number of a guest's connections to all services; further ones are reset.
const MAX_CONNECTIONS: usize = 256;

/// Maximum number of open files: a listener of both families for each port, both sides of each connection, and one
/// connection that is about to be reset.
pub(super) const OPEN_FILES: u64 = (2 * HostPorts::MAX + 2 * MAX_CONNECTIONS + 1) as u64;

/// Number of bytes that a connection buffers in each direction.
const BUFFER: usize = 16 << 10;

/// Timeout for a service to accept: it takes under a millisecond, unless the queue of the service is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the addresses at which the guest reaches the services.
pub(super) fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<IpAddr>> {
    let all = listeners.iter().map(|listener| Ok(listener.local_addr()?.ip()));
    let mut all = all.collect::<io::Result<Vec<_>>>()?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Serves each listener for the service on its port, in tasks.
pub(super) fn serve(listeners: Vec<TcpListener>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for listener in listeners {
        tokio::spawn(accept(listener, connections.clone()));
    }
}

async fn accept(listener: TcpListener, connections: Arc<Semaphore>) {
    let Ok(port) = listener.local_addr().map(|address| address.port()) else { return };
    loop {
        let Ok((guest, _)) = listener.accept().await else {
            // A connection that ended early.
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            reset(&guest);
            continue;
        };
        tokio::spawn(async move {
            let joined = join(guest, port).await;
            if let Err(error) = joined {
                tracing::debug!(port, %error, "a connection to a service of the host ended");
            }
            drop(permit);
        });
    }
}

/// Connects the guest with the service until both have sent everything, however long that takes. After an error on one
/// side, such as that the service does not exist, the other side gets a reset.
async fn join(mut guest: TcpStream, port: u16) -> io::Result<()> {
    let mut service = connect(port).await.inspect_err(|_| reset(&guest))?;
    let joined = copy_bidirectional_with_sizes(&mut guest, &mut service, BUFFER, BUFFER).await;
    if joined.is_err() {
        reset(&guest);
        reset(&service);
    }
    joined.map(drop)
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect((loopback, port))).await {
            // Without a listener, a socket can connect to itself: the kernel has chosen the same port for it.
            Ok(Ok(service)) if service.local_addr()? == service.peer_addr()? => {}
            Ok(Ok(service)) => return Ok(service),
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// Has a connection end with a reset when it is closed.
fn reset(stream: impl AsFd) {
    // If it cannot, the other side sees the connection close.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Returns a service, and its port.
    async fn service(loopback: &str) -> (TcpListener, u16) {
        let service = TcpListener::bind((loopback, 0)).await.unwrap();
        let port = service.local_addr().unwrap().port();
        (service, port)
    }

    /// Returns a guest that is connected with the service on a port, and the task that connects it.
    async fn guest(port: u16) -> (TcpStream, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        (guest, tokio::spawn(join(accepted, port)))
    }

    #[tokio::test]
    async fn a_service_of_either_family_answers_after_the_guest_has_sent_everything() {
        for loopback in ["127.0.0.1", "::1"] {
            let (service, port) = service(loopback).await;
            let (mut guest, joined) = guest(port).await;
            let (mut service, _) = service.accept().await.unwrap();
            guest.write_all(b"ask").await.unwrap();
            guest.shutdown().await.unwrap();
            let mut request = String::new();
            service.read_to_string(&mut request).await.unwrap();
            service.write_all(b"answer").await.unwrap();
            drop(service);
            let mut answer = String::new();
            guest.read_to_string(&mut answer).await.unwrap();
            assert_eq!((request.as_str(), answer.as_str()), ("ask", "answer"));
            joined.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn without_a_service_or_after_its_reset_the_guest_gets_a_reset() {
        let (listener, port) = service("127.0.0.1").await;
        let (mut connected, joined) = guest(port).await;
        let (accepted, _) = listener.accept().await.unwrap();
        reset(&accepted);
        drop((accepted, listener));
        let (mut refused, not_joined) = guest(port).await;
        for guest in [&mut connected, &mut refused] {
            let error = guest.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        joined.await.unwrap().unwrap_err();
        not_joined.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_guest_has_a_limited_number_of_connections() {
        let (service, _) = service("127.0.0.1").await;
        let address = service.local_addr().unwrap();
        // Each connection leads to the same listener, and so to the next connection, until the limit.
        let connections = Arc::new(Semaphore::new(8));
        tokio::spawn(accept(service, connections.clone()));
        let mut guest = TcpStream::connect(address).await.unwrap();
        let error = guest.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // All of them have ended.
        let _ = connections.acquire_many(8).await.unwrap();
    }
}
