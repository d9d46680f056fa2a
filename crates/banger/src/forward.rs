//! Forwards a guest's ports to the host's loopback during a session.

use std::{
    future::pending,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use banger_api::{ApiError, Forward, Vm};
use banger_client::{Client, ExecInput, SocketEvent};
use banger_proto::{Connect, Endpoint};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::Semaphore,
    time::sleep,
};

use crate::{
    ssh::{MAX_CHANNELS, join_directions},
    ui::Ui,
};

/// Maximum size of a read, in bytes.
const MAX_READ: usize = 32 << 10;

/// Delay after a failed accept, for example when this process has too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Listeners on the host that forward to ports of a VM.
#[derive(Debug)]
pub(crate) struct Forwards<'a> {
    client: &'a Client,
    vm: &'a Vm,
    listeners: Vec<(TcpListener, u16)>,
}

impl<'a> Forwards<'a> {
    /// Listens for each of `ports` of `vm` and prints the addresses. A port that cannot be bound is replaced by another.
    pub(crate) async fn listen(client: &'a Client, ui: &Ui, vm: &'a Vm, ports: &[Forward]) -> Self {
        let mut listeners = Vec::new();
        for Forward { host, guest } in ports {
            match listen(*host).await {
                Ok((listener, address, note)) => {
                    ui.note(format_args!("port {guest} of VM {} is at {address}{note}", vm.name));
                    listeners.push((listener, *guest));
                }
                Err(error) => {
                    ui.warning(format_args!("cannot forward port {guest} of VM {}: {error}", vm.name));
                }
            }
        }
        Self { client, vm, listeners }
    }

    /// Accepts connections while `session` runs.
    pub(crate) async fn serve_during<T>(&self, session: impl Future<Output = T>) -> T {
        let permits = Semaphore::new(MAX_CHANNELS);
        let accepting = self.listeners.iter().map(|(listener, port)| self.accept(listener, *port, &permits));
        let accepting = join_all(accepting);
        tokio::select! {
            result = session => result,
            // This branch never completes.
            _ = accepting, if !self.listeners.is_empty() => pending().await,
        }
    }

    async fn accept(&self, listener: &TcpListener, port: u16, permits: &Semaphore) {
        let mut open = FuturesUnordered::new();
        loop {
            let next = async {
                let permit = permits.acquire().await.ok();
                (permit, listener.accept().await)
            };
            tokio::select! {
                (permit, accepted) = next => match accepted {
                    Ok((stream, _)) => open.push(async move {
                        // Closing the connection is enough to show the error.
                        let _ = self.relay(stream, port).await;
                        drop(permit);
                    }),
                    Err(_) => sleep(ACCEPT_RETRY_DELAY).await,
                },
                Some(()) = open.next() => {}
            }
        }
    }

    /// Copies bytes in both directions until both have ended or one side has disconnected.
    async fn relay(&self, stream: TcpStream, port: u16) -> Result<(), ApiError> {
        let to = Endpoint::Tcp { host: "localhost".to_owned(), port };
        let connect = Connect { to, user: None };
        let (input, mut output) = banger_client::connect(self.client, self.vm.id.as_str(), connect).await?;
        stream.set_nodelay(true).map_err(io_error)?;
        let (reader, mut writer) = stream.into_split();
        let out = async {
            loop {
                match output.next().await? {
                    SocketEvent::Data(bytes) => writer.write_all(&bytes).await.map_err(io_error)?,
                    SocketEvent::End => writer.shutdown().await.map_err(io_error)?,
                    SocketEvent::Acknowledged(_) => {}
                    SocketEvent::Closed => return Ok(()),
                }
            }
        };
        join_directions(out, forward_input(input, reader)).await.map(drop)
    }
}

/// Sends the caller's bytes to the guest until the connection breaks. End of input only ends the guest's input.
async fn forward_input(mut input: ExecInput, mut reader: OwnedReadHalf) -> Result<(), ApiError> {
    let mut buffer = vec![0; MAX_READ];
    loop {
        input.wait_for_window(MAX_READ).await;
        match reader.read(&mut buffer).await.map_err(io_error)? {
            0 => break,
            count => input.stdin(buffer.get(..count).unwrap_or_default()).await?,
        }
    }
    input.end_stdin().await?;
    pending().await
}

/// Returns a listener on `port` of the loopback, its address, and the reason if it uses another port.
async fn listen(port: u16) -> io::Result<(TcpListener, std::net::SocketAddr, String)> {
    let bind = async |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let bound = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        // A service that listens only there has the port too: `localhost` is both addresses.
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error),
        _ => bind(port).await,
    };
    let (listener, note) = match bound {
        Ok(listener) => (listener, String::new()),
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::AddrInUse => "in use".to_owned(),
                ErrorKind::PermissionDenied => "not permitted".to_owned(),
                _ => format!("not available: {error}"),
            };
            (bind(0).await?, format!(" (port {port} on the host is {why})"))
        }
    };
    let address = listener.local_addr()?;
    Ok((listener, address, note))
}

fn io_error(error: io::Error) -> ApiError {
    ApiError::new(banger_api::ErrorKind::Io, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_bind_only_loopback_and_replace_ports_in_use() {
        let (first, address, note) = listen(0).await.unwrap();
        assert_eq!((address.ip(), note.as_str()), (Ipv4Addr::LOCALHOST.into(), ""));
        let (_other, other_address, note) = listen(address.port()).await.unwrap();
        assert_ne!(other_address.port(), address.port());
        assert_eq!(other_address.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(note, format!(" (port {} on the host is in use)", address.port()));
        drop(first);
    }

    #[tokio::test]
    async fn a_port_in_use_only_by_ipv6_is_replaced() {
        let Ok(service) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let port = service.local_addr().unwrap().port();
        let (_listener, address, note) = listen(port).await.unwrap();
        assert_ne!(address.port(), port);
        assert_eq!(note, format!(" (port {port} on the host is in use)"));
    }
}
