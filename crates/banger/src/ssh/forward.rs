//! Forwarded connections, into the guest and out of it.

use std::{net::SocketAddr, sync::Arc};

use banger_api::{ApiError, ErrorKind};
use banger_client::{ExecInput, GuestListener, PendingConnection, SocketEvent, SocketOutput};
use banger_proto::{Connect, Endpoint, Listen};
use banger_ssh_server::{Channel, Link, Refusal, Source, Stream};

use super::{
    relay::{closed, forward_input, join_directions},
    shared::Shared,
};

/// Kind of channel to open for a connection to a socket in the guest.
#[derive(Debug, Clone)]
enum ChannelKind {
    /// For a forwarded port, with the address as ssh gave it.
    Tcp(String, u16),
    /// For a forwarded path.
    Unix(Vec<u8>),
    /// For the user's ssh-agent.
    Agent,
}

/// Connects to `to` in the guest and copies bytes.
pub(super) async fn direct(shared: &Shared, to: Endpoint, user: Option<String>, channel: Channel) {
    match banger_client::connect(&shared.client, shared.vm_id(), Connect { to, user }).await {
        Ok((input, output)) => {
            // ssh may have disconnected.
            if channel.accept().await.is_ok() {
                relay(channel, input, output).await;
            }
        }
        Err(error) => {
            channel.refuse(Refusal::ConnectFailed(shared.with_vm_name(error).message)).await;
        }
    }
}

/// Listens at `at` in the guest until cancelled; returns the endpoint, with the port that was chosen.
pub(super) async fn listen(
    shared: &Arc<Shared>,
    link: &Link,
    at: Endpoint,
    user: Option<String>,
) -> Result<Endpoint, ApiError> {
    let listen = Listen { at: Some(at), user };
    let listener = banger_client::listen(&shared.client, shared.vm_id(), listen).await?;
    let at = listener.at().clone();
    let kind = match at.clone() {
        Endpoint::Tcp { host, port } => ChannelKind::Tcp(host, port),
        Endpoint::Unix { path } => ChannelKind::Unix(path),
    };
    let accepting = tokio::spawn(accept(shared.clone(), link.clone(), listener, kind));
    shared.listeners().add(&at, accepting.abort_handle())?;
    Ok(at)
}

/// Returns the guest's socket for the user's ssh-agent, created on the first call.
pub(super) async fn agent_socket<'a>(
    shared: &'a Arc<Shared>,
    link: &Link,
    user: Option<&str>,
) -> Result<&'a [u8], ApiError> {
    Ok(shared.agent_socket.get_or_try_init(|| forward_agent(shared, link, user)).await?)
}

/// Creates a socket in the guest that forwards the user's ssh-agent; returns its path.
async fn forward_agent(shared: &Arc<Shared>, link: &Link, user: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let listen = Listen { at: None, user: user.map(str::to_owned) };
    let listener = banger_client::listen(&shared.client, shared.vm_id(), listen).await?;
    let Endpoint::Unix { path } = listener.at().clone() else {
        return Err(ApiError::new(ErrorKind::Guest, "the guest listens at another address than requested"));
    };
    tokio::spawn(accept(shared.clone(), link.clone(), listener, ChannelKind::Agent));
    Ok(path)
}

/// Opens a channel for each connection until the guest or ssh ends.
async fn accept(shared: Arc<Shared>, link: Link, mut listener: GuestListener, kind: ChannelKind) {
    while let Ok(incoming) = listener.next().await {
        let Some(permits) = shared.permits().acquire_incoming().await else { return };
        let (shared, link, kind) = (shared.clone(), link.clone(), kind.clone());
        tokio::spawn(async move {
            answer(&shared, &link, incoming, kind).await;
            drop(permits);
        });
    }
}

async fn answer(shared: &Shared, link: &Link, incoming: PendingConnection, kind: ChannelKind) {
    let opened = open(link, kind, incoming.from).await;
    // Attached even if ssh refuses, so that the caller sees the connection close.
    let attached = banger_client::accept(&shared.client, shared.vm_id(), incoming.id).await;
    match (opened, attached) {
        (Ok(channel), Ok((input, output))) => relay(channel, input, output).await,
        (Ok(channel), Err(_)) => channel.writer.close().await,
        (Err(_), _) => {}
    }
}

async fn open(link: &Link, kind: ChannelKind, from: Option<SocketAddr>) -> Result<Channel, ApiError> {
    let source = match kind {
        ChannelKind::Tcp(host, port) => {
            let caller = from.map_or_else(Default::default, |from| (from.ip().to_string(), from.port()));
            Source::Tcp { listener: (host, port), caller }
        }
        ChannelKind::Unix(path) => Source::Unix { path },
        ChannelKind::Agent => Source::Agent,
    };
    link.open(source).await.map_err(closed)
}

/// Copies bytes in both directions until both have ended or ssh has closed the channel.
async fn relay(channel: Channel, input: ExecInput, mut output: SocketOutput) {
    let Channel { reader, writer, controls } = channel;
    let out = async {
        loop {
            match output.next().await? {
                SocketEvent::Data(bytes) => {
                    // ssh may have closed the channel while data that it sent before is still on its way.
                    let _ = writer.write(bytes, Stream::Output).await;
                }
                SocketEvent::End => writer.end().await.map_err(closed)?,
                SocketEvent::Acknowledged(_) => {}
                SocketEvent::Closed => return Ok(()),
            }
        }
    };
    // Closing the channel is the only way to report the end.
    let _ = join_directions(out, forward_input(input, reader, controls)).await;
    writer.close().await;
}
