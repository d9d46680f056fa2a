//! Datagrams between the host and a UDP port of the guest: one data frame each.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use banger_proto::{Datagrams, FailureKind, Frame, HEADER_LEN, Reply, Stream};
use banger_sys::SocketProtocol;
use tokio::{net::UdpSocket, time::timeout};

use super::refuse::refuse;
use crate::{
    connection::{Incoming, Outgoing},
    failure::Failure,
};

/// Maximum size of a datagram, in bytes: UDP's over IPv4.
const MAX_DATAGRAM: usize = 65_507;

/// Time without a datagram after which the connection ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Forwards datagrams in both directions until the host disconnects, or none has passed for a while.
pub(crate) async fn datagrams(request: Datagrams, incoming: Incoming, mut outgoing: Outgoing) {
    let socket = match connect(request.port).await {
        Ok(socket) => socket,
        Err(failure) => return refuse(failure, outgoing).await,
    };
    if outgoing.send_message(&Reply::Connected).await.is_ok() {
        // The host has closed the connection, or the guest no longer listens.
        let _ = forward(&socket, incoming, &mut outgoing).await;
    }
}

async fn connect(port: u16) -> Result<UdpSocket, Failure> {
    let Some(address) = listener(port) else {
        let message = format!("nothing listens on UDP port {port}");
        return Err(Failure::new(FailureKind::NotFound, message));
    };
    let connected = async {
        let socket = UdpSocket::bind((address, 0)).await?;
        socket.connect((address, port)).await?;
        io::Result::Ok(socket)
    };
    connected.await.map_err(Failure::io(format!("connect to UDP port {port}")))
}

/// Returns the loopback address at which something listens on `port`; prefers IPv4.
fn listener(port: u16) -> Option<IpAddr> {
    let sockets = banger_sys::listeners(SocketProtocol::Udp);
    let mut addresses: Vec<IpAddr> = sockets
        .iter()
        .filter(|socket| socket.port == port)
        .filter_map(|socket| match socket.address {
            IpAddr::V4(address) if address.is_loopback() || address.is_unspecified() => {
                Some(Ipv4Addr::LOCALHOST.into())
            }
            // Most servers on all addresses of IPv6 have those of IPv4, too; all have this one.
            IpAddr::V6(address) if address.is_loopback() || address.is_unspecified() => {
                Some(Ipv6Addr::LOCALHOST.into())
            }
            _ => None,
        })
        .collect();
    addresses.sort_unstable();
    addresses.first().copied()
}

async fn forward(socket: &UdpSocket, mut incoming: Incoming, outgoing: &mut Outgoing) -> io::Result<()> {
    let mut frame = vec![0; HEADER_LEN + MAX_DATAGRAM];
    loop {
        let next = async {
            tokio::select! {
                frame = incoming.next() => match frame {
                    Ok(Some(Frame::Data(Stream::Stdin, bytes))) => {
                        // Not `try_send`: a new socket is not known to be writable. As with any datagram, its loss is
                        // not reported.
                        let _ = socket.send(&bytes).await;
                        Ok(())
                    }
                    _ => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                },
                received = socket.recv(frame.get_mut(HEADER_LEN..).unwrap_or_default()) => {
                    let count = received?;
                    // An empty frame would be an end.
                    if count > 0 {
                        let frame = frame.get_mut(..HEADER_LEN + count).unwrap_or_default();
                        outgoing.send_in_place(Stream::Stdout, frame).await?;
                    }
                    Ok(())
                }
            }
        };
        timeout(IDLE_TIMEOUT, next).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
}
