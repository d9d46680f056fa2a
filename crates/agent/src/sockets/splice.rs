//! Joins a socket in the guest with a connection to the host: in frames, with the windows of an exec.

use std::io;

use banger_proto::{Frame, HEADER_LEN, Reply, STDIN_WINDOW, Stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::stream::Socket;
use crate::{
    connection::{Incoming, Outgoing},
    window::{QueueReceiver, QueueSender, queue},
};

/// Maximum data in a frame, in bytes. A system call costs more than many bytes in a guest without KVM.
const MAX_CHUNK: usize = 256 << 10;

/// Bytes that are acknowledged at once while more are waiting.
const ACKNOWLEDGED_AT_ONCE: usize = STDIN_WINDOW / 4;

/// Maximum number of acknowledgements that wait to be sent.
const MAX_WAITING: usize = 4;

/// Forwards data until both directions have ended, or the host disconnects.
pub(super) async fn splice(socket: Socket, incoming: Incoming, mut outgoing: Outgoing) {
    if outgoing.send_message(&Reply::Connected).await.is_err() {
        return;
    }
    let (read, write) = tokio::io::split(socket);
    let (to_host, acknowledgements) = mpsc::channel(MAX_WAITING);
    let (to_socket, queued) = queue();
    let to = forward_to_socket(write, queued, to_host);
    let from = send(read, acknowledgements, &mut outgoing);
    tokio::select! {
        sent = async { tokio::join!(from, to).0 } => {
            if sent.is_ok() {
                // The host may have closed the connection.
                let _ = outgoing.send_message(&Reply::Closed).await;
                outgoing.finish().await;
            }
        }
        () = receive(incoming, to_socket) => {}
    }
}

/// Queues the host's data, until it disconnects or sends an invalid frame.
async fn receive(mut incoming: Incoming, to_socket: QueueSender) {
    while let Ok(Some(Frame::Data(Stream::Stdin, bytes))) = incoming.next().await {
        if to_socket.push(bytes).is_err() {
            return;
        }
    }
}

/// Sends all data from the socket and its end, and acknowledgements until there are no more.
async fn send(
    mut socket: impl AsyncRead + Unpin,
    mut acknowledgements: mpsc::Receiver<Reply>,
    outgoing: &mut Outgoing,
) -> io::Result<()> {
    let mut frame = vec![0; HEADER_LEN + MAX_CHUNK];
    let (mut ended, mut acknowledged) = (false, false);
    while !(ended && acknowledged) {
        tokio::select! {
            reply = acknowledgements.recv(), if !acknowledged => match reply {
                Some(reply) => outgoing.send_message(&reply).await?,
                None => acknowledged = true,
            },
            read = socket.read(frame.get_mut(HEADER_LEN..).unwrap_or_default()), if !ended => match read {
                Ok(count @ 1..) => {
                    let frame = frame.get_mut(..HEADER_LEN + count).unwrap_or_default();
                    outgoing.send_in_place(Stream::Stdout, frame).await?;
                }
                // A broken socket has ended, too.
                Ok(0) | Err(_) => {
                    outgoing.send(&Frame::end(Stream::Stdout)).await?;
                    ended = true;
                }
            },
        }
    }
    Ok(())
}

/// Writes the host's data to the socket, until the data ends or a write fails.
async fn forward_to_socket(
    mut socket: impl AsyncWrite + Unpin,
    mut queued: QueueReceiver,
    to_host: mpsc::Sender<Reply>,
) {
    let mut written = 0;
    while let Some(bytes) = queued.next().await {
        if bytes.is_empty() {
            // The socket may be broken.
            let _ = socket.shutdown().await;
            return;
        }
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
        written += bytes.len();
        if (queued.is_empty() || written >= ACKNOWLEDGED_AT_ONCE)
            && to_host.send(queued.acknowledge(std::mem::take(&mut written))).await.is_err()
        {
            return;
        }
    }
}
