//! Forwards a guest's ports to the host's loopback during a session.

use std::{
    io::{self, ErrorKind},
    net::Ipv4Addr,
    time::Duration,
};

use banger_api::{ApiError, Forward, Vm};
use banger_client::{Client, ExecInput, SocketEvent};
use banger_proto::{Connect, Endpoint};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::sleep,
};

use crate::{
    ssh::{CHANNELS, ended},
    ui::Ui,
};

/// Maximum size of a read, in bytes.
const PART: usize = 32 << 10;

/// Delay after a failed accept, for example when this process has too many open files.
const PATIENCE: Duration = Duration::from_millis(200);

/// Listeners on the host that forward to ports of a VM.
#[derive(Debug)]
pub(crate) struct Forwards<'a> {
    client: &'a Client,
    vm: &'a Vm,
    listeners: Vec<(TcpListener, u16)>,
}

impl<'a> Forwards<'a> {
    /// Listens for each of `ports` of `vm` and prints the addresses. Another port replaces one that cannot be bound.
    pub(crate) async fn listen(client: &'a Client, ui: &Ui, vm: &'a Vm, ports: &[Forward]) -> Self {
        let mut listeners = Vec::new();
        for Forward { host, guest } in ports {
            match listen(*host).await {
                Ok((listener, at, instead)) => {
                    ui.note(format_args!("port {guest} of VM {} is at {at}{instead}", vm.name));
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
    pub(crate) async fn during<T>(&self, session: impl Future<Output = T>) -> T {
        let places = Semaphore::new(CHANNELS);
        let accepting = self.listeners.iter().map(|(listener, port)| self.accept(listener, *port, &places));
        let accepting = join_all(accepting);
        tokio::select! {
            ended = session => ended,
            // This branch never completes.
            _ = accepting, if !self.listeners.is_empty() => std::future::pending().await,
        }
    }

    async fn accept(&self, listener: &TcpListener, port: u16, places: &Semaphore) {
        let mut open = FuturesUnordered::new();
        loop {
            let next = async {
                let place = places.acquire().await.ok();
                (place, listener.accept().await)
            };
            tokio::select! {
                (place, called) = next => match called {
                    Ok((stream, _)) => open.push(async move {
                        // Closing the connection is enough to show the error.
                        let _ = self.pass_on(stream, port).await;
                        drop(place);
                    }),
                    Err(_) => sleep(PATIENCE).await,
                },
                Some(()) = open.next() => {}
            }
        }
    }

    /// Copies bytes in both directions until both have ended or one side has disconnected.
    async fn pass_on(&self, stream: TcpStream, port: u16) -> Result<(), ApiError> {
        let to = Endpoint::Tcp { host: "localhost".to_owned(), port };
        let connect = Connect { to, user: None };
        let (input, mut output) = banger_client::connect(self.client, self.vm.id.as_str(), connect).await?;
        stream.set_nodelay(true).map_err(gone)?;
        let (reader, mut writer) = stream.into_split();
        let (tell_taken, taken) = mpsc::unbounded_channel();
        let out = async {
            loop {
                match output.next().await? {
                    SocketEvent::Data(bytes) => writer.write_all(&bytes).await.map_err(gone)?,
                    SocketEvent::End => writer.shutdown().await.map_err(gone)?,
                    SocketEvent::Taken(bytes) => {
                        // The receiver is dropped only together with this half.
                        let _ = tell_taken.send(bytes);
                    }
                    SocketEvent::Closed => return Ok(()),
                }
            }
        };
        ended(out, feed(input, reader, taken)).await.map(drop)
    }
}

/// Sends the caller's bytes to the guest until the connection breaks. End of input only ends the guest's input.
async fn feed(
    mut input: ExecInput,
    mut reader: OwnedReadHalf,
    mut taken: mpsc::UnboundedReceiver<usize>,
) -> Result<(), ApiError> {
    let mut buffer = vec![0; PART];
    let mut is_over = false;
    loop {
        tokio::select! {
            Some(bytes) = taken.recv() => input.taken(bytes),
            read = reader.read(&mut buffer), if !is_over && input.window() >= PART => {
                match read.map_err(gone)? {
                    0 => {
                        is_over = true;
                        input.end_stdin().await?;
                    }
                    count => input.stdin(buffer.get(..count).unwrap_or_default()).await?,
                }
            }
            else => return Ok(()),
        }
    }
}

/// Returns a listener on `port` of the loopback, its address, and the reason if it uses another port.
async fn listen(port: u16) -> io::Result<(TcpListener, std::net::SocketAddr, String)> {
    let bind = async |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let (listener, instead) = match bind(port).await {
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
    let at = listener.local_addr()?;
    Ok((listener, at, instead))
}

fn gone(error: io::Error) -> ApiError {
    ApiError::new(banger_api::ErrorKind::Io, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_replaced_and_nothing_but_the_loopback_listens() {
        let (taken, at, instead) = listen(0).await.unwrap();
        assert_eq!((at.ip(), instead.as_str()), (Ipv4Addr::LOCALHOST.into(), ""));
        let (_other, other_at, instead) = listen(at.port()).await.unwrap();
        assert_ne!(other_at.port(), at.port());
        assert_eq!(other_at.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(instead, format!(" (port {} on the host is in use)", at.port()));
        drop(taken);
    }
}
