//! Detects whether a listener speaks HTTP by sending it a request.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use banger_proto::{Listener, Transport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// Timeout for a listener's response: HTTP takes milliseconds, other listeners may never send anything.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of listeners to probe, all at once: each needs a descriptor.
const MAX_PROBES: usize = 64;

const REQUEST: &[u8] =
    b"HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: banger\r\nConnection: close\r\n\r\n";

/// Start of every HTTP response.
const RESPONSE_PREFIX: &[u8; 5] = b"HTTP/";

/// Probes the TCP listeners among `listeners`.
pub(super) async fn probe_all(listeners: &mut [Listener]) {
    let mut probes = JoinSet::new();
    let streams = listeners.iter().enumerate().filter(|(_, listener)| listener.protocol == Transport::Tcp);
    for (number, listener) in streams.take(MAX_PROBES) {
        let address = SocketAddr::new(reachable(listener.address), listener.port);
        probes.spawn_local(async move { (number, timeout(TIMEOUT, speaks_http(address)).await == Ok(true)) });
    }
    while let Some(result) = probes.join_next().await {
        if let Ok((number, http)) = result
            && let Some(listener) = listeners.get_mut(number)
        {
            listener.http = http;
        }
    }
}

/// Returns the address at which a listener on `address` is reachable inside the guest.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

async fn speaks_http(address: SocketAddr) -> bool {
    let response = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(REQUEST).await?;
        let mut prefix = [0; RESPONSE_PREFIX.len()];
        stream.read_exact(&mut prefix).await?;
        std::io::Result::Ok(prefix)
    };
    response.await.is_ok_and(|prefix| prefix == *RESPONSE_PREFIX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use tokio::task::LocalSet;

    use super::*;

    /// Starts a listener that sends `response` to its first client and disconnects.
    fn start_listener(response: &'static [u8]) -> Listener {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = socket.accept().unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"HEAD");
            stream.write_all(response).unwrap();
        });
        Listener {
            protocol: Transport::Tcp,
            address: address.ip(),
            port: address.port(),
            pid: None,
            process: None,
            http: false,
        }
    }

    #[tokio::test]
    async fn http_listeners_are_detected_by_their_response() {
        let mut listeners = vec![
            start_listener(b"HTTP/1.1 501 No\r\n\r\n"),
            start_listener(b"SSH-2.0-x\r\n"),
            start_listener(b"HT"),
        ];
        listeners.push(Listener { protocol: Transport::Udp, ..listeners[0].clone() });
        LocalSet::new().run_until(probe_all(&mut listeners)).await;
        assert_eq!(listeners.iter().map(|l| l.http).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[test]
    fn listeners_on_all_addresses_are_probed_on_loopback() {
        for (address, expected) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.2.15", "10.0.2.15")] {
            assert_eq!(reachable(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
