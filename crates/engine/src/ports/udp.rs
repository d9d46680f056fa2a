//! Serves a published UDP port: each client's datagrams pass through a connection of their own, a flow.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use banger_proto::{Datagrams, FrameHeader, HEADER_LEN, Reply, Request, Stream};
use banger_vmm::GuestStream;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::serve::Target;
use crate::{
    error::EngineError,
    guest::{Agent, unexpected},
};

/// Maximum size of a datagram, in bytes: UDP's over IPv4.
const MAX_DATAGRAM: usize = 65_507;

/// Maximum number of datagrams of a client that wait for the guest; more are lost.
const MAX_WAITING: usize = 64;

/// Time without a datagram after which a flow ends. The agent's is longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Delay after a failed receive.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Serves a socket forever. Dropping the future ends its flows.
pub(super) async fn serve(socket: Arc<UdpSocket>, target: Target) {
    let mut flows: HashMap<SocketAddr, (u64, mpsc::Sender<Bytes>)> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut last = 0;
    loop {
        let (count, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An answer could not be delivered.
                Err(_) => {
                    sleep(RETRY_DELAY).await;
                    continue;
                }
            },
            Some(ended) = tasks.join_next() => {
                // A client may have another flow already.
                if let Ok((client, number)) = ended
                    && let Entry::Occupied(flow) = flows.entry(client)
                    && flow.get().0 == number
                {
                    flow.remove();
                }
                continue;
            }
        };
        let datagram = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        // The agent's protocol has no empty datagrams.
        if datagram.is_empty() {
            continue;
        }
        if let Some((_, flow)) = flows.get(&client).filter(|(_, flow)| !flow.is_closed()) {
            // If the guest is too slow, the datagram is lost.
            let _ = flow.try_send(datagram);
            continue;
        }
        // Like connections, flows are limited; the datagrams of others are lost.
        let Ok(slot) = target.slots.clone().try_acquire_owned() else { continue };
        let (sender, datagrams) = mpsc::channel(MAX_WAITING);
        let _ = sender.try_send(datagram);
        last += 1;
        flows.insert(client, (last, sender));
        // The socket is closed with this future, not with its flows.
        let (socket, target, number) = (Arc::downgrade(&socket), target.clone(), last);
        tasks.spawn(async move {
            let _session = target.sessions.open_port(&target.vm);
            if let Err(error) = flow(&socket, client, datagrams, &target).await {
                tracing::debug!(vm = %target.vm, port = target.port, %error, "a flow of datagrams ended");
            }
            drop(slot);
            (client, number)
        });
    }
}

/// Forwards a client's datagrams to the guest, and the guest's to the client.
async fn flow(
    socket: &Weak<UdpSocket>,
    client: SocketAddr,
    mut datagrams: mpsc::Receiver<Bytes>,
    target: &Target,
) -> Result<(), EngineError> {
    let stream = banger_vmm::connect(&target.agent.guest, target.agent.port).await?;
    let request = Request::Datagrams(Datagrams { port: target.port });
    let (mut stream, mut received) = match Agent::ask(stream, &request).await? {
        (agent, _, Reply::Connected) => agent.into_parts(),
        (_, _, other) => return Err(unexpected(&other)),
    };
    let forward = async {
        loop {
            while let Some(datagram) = next_datagram(&mut received)? {
                let Some(socket) = socket.upgrade() else { return Ok(()) };
                // The client may be gone.
                let _ = socket.send_to(&datagram, client).await;
            }
            tokio::select! {
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => send(&mut stream, &datagram).await?,
                    None => return Ok(()),
                },
                read = timeout(IDLE_TIMEOUT, stream.read_buf(&mut received)) => match read {
                    Ok(Ok(1..)) => {}
                    // It is idle, or the guest has ended it.
                    Err(_) | Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                },
            }
        }
    };
    let forwarded: io::Result<()> = forward.await;
    forwarded.map_err(|error| EngineError::Guest(format!("the flow broke: {error}")))
}

/// Sends a datagram. A guest that does not read for long ends its flow.
async fn send(stream: &mut GuestStream, datagram: &[u8]) -> io::Result<()> {
    let sent = async {
        stream.write_all(&FrameHeader::of_data(Stream::Stdin, datagram.len())).await?;
        stream.write_all(datagram).await
    };
    timeout(IDLE_TIMEOUT, sent).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Returns the next datagram in the bytes of the guest, if it is complete. The guest is hostile: an end or anything else
/// than a datagram is an error.
fn next_datagram(received: &mut BytesMut) -> io::Result<Option<BytesMut>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let Some((header, _)) = received.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    match FrameHeader::decode(*header).map_err(|error| invalid(error.to_string()))? {
        FrameHeader { stream: Some(Stream::Stdout), length: length @ 1..=MAX_DATAGRAM } => {
            if received.len() < HEADER_LEN + length {
                received.reserve(HEADER_LEN + length - received.len());
                return Ok(None);
            }
            received.advance(HEADER_LEN);
            Ok(Some(received.split_to(length)))
        }
        _ => Err(invalid("the guest sent something else than a datagram".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use banger_proto::Frame;

    use super::*;

    #[test]
    fn only_complete_datagrams_of_a_possible_size_are_taken_from_the_guest() {
        let data = |stream, bytes: &[u8]| {
            let mut encoded = BytesMut::new();
            Frame::Data(stream, Bytes::copy_from_slice(bytes)).encode(&mut encoded);
            encoded
        };
        let mut received = data(Stream::Stdout, b"one");
        received.extend_from_slice(&data(Stream::Stdout, b"two")[..6]);
        assert_eq!(next_datagram(&mut received).unwrap().unwrap(), b"one"[..]);
        assert!(next_datagram(&mut received).unwrap().is_none());
        received.extend_from_slice(b"wo");
        assert_eq!(next_datagram(&mut received).unwrap().unwrap(), b"two"[..]);
        let control = {
            let mut encoded = BytesMut::new();
            Frame::control(&Reply::Closed).unwrap().encode(&mut encoded);
            encoded
        };
        for mut other in [
            data(Stream::Stdout, b""),
            data(Stream::Stderr, b"a"),
            data(Stream::Stdout, &vec![0; MAX_DATAGRAM + 1]),
            control,
        ] {
            assert!(next_datagram(&mut other).is_err(), "{other:?}");
        }
    }
}
