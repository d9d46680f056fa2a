//! Connects to a socket in the guest.

use std::{io, net::SocketAddr, os::unix::net::UnixStream as StdUnixStream, time::Duration};

use banger_proto::{Endpoint, FailureKind};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{names::resolve, privileges::run_as_user};
use crate::stream::Socket;
use crate::{children::Children, failure::Failure, users};

/// Timeout for a server to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects to `to`, to a path as `user`; tries a name's addresses in order.
pub(super) async fn connect(
    to: &Endpoint,
    user: Option<&str>,
    children: &Children,
) -> Result<Socket, Failure> {
    match to {
        Endpoint::Tcp { host, port } => {
            // Keeps the first error: the first address is most likely the intended one.
            let mut failure = None;
            for address in resolve(host, children).await? {
                match connect_tcp((address, *port).into()).await {
                    Ok(socket) => return Ok(Box::pin(socket)),
                    Err(error) => _ = failure.get_or_insert(error),
                }
            }
            let no_address = || Failure::new(FailureKind::NotFound, format!("{host:?} has no address"));
            Err(failure.unwrap_or_else(no_address))
        }
        Endpoint::Unix { path } => {
            let action = format!("connect to {}", String::from_utf8_lossy(path));
            let user = users::lookup(user)?;
            let path = path.clone();
            let connected = run_as_user(&user, move || connect_unix(&path)).await;
            let socket = connected.and_then(UnixStream::from_std).map_err(Failure::io(action))?;
            Ok(Box::pin(socket))
        }
    }
}

async fn connect_tcp(address: SocketAddr) -> Result<TcpStream, Failure> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let socket = connected.map_err(Failure::io(format!("connect to {address}")))?;
    // Send typed characters without delay.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// Connects without waiting in a full queue, which may stay full forever.
fn connect_unix(path: &[u8]) -> io::Result<StdUnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}
