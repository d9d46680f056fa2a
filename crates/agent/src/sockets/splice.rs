//! Joins a socket in the guest with a connection to the host: in frames, with the windows of an exec.

use banger_proto::{Frame, Reply, Stream};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::stream::Socket;
use crate::{
    connection::{Incoming, Outgoing},
    window::{QueueReceiver, QueueSender, queue, send_reply},
};

/// Maximum data in a frame, in bytes.
const MAX_CHUNK: usize = 64 << 10;

/// Maximum number of frames queued for a slow host; beyond it, the socket's peer has to wait.
const MAX_WAITING_FRAMES: usize = 4;

/// Forwards data until both directions have ended, or the host disconnects.
pub(super) async fn splice(socket: Socket, incoming: Incoming, mut outgoing: Outgoing) {
    if outgoing.send_message(&Reply::Connected).await.is_err() {
        return;
    }
    let (read, write) = tokio::io::split(socket);
    let (frames, mut waiting) = mpsc::channel(MAX_WAITING_FRAMES);
    let (to_socket, queued) = queue();
    let (from, to) = (forward_from_socket(read, frames.clone()), forward_to_socket(write, queued, frames));
    let sending = async move {
        while let Some(frame) = waiting.recv().await {
            outgoing.send(&frame).await?;
        }
        std::io::Result::Ok(outgoing)
    };
    let both_directions = async { tokio::join!(from, to, sending).2 };
    tokio::select! {
        sent = both_directions => {
            if let Ok(mut outgoing) = sent {
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

/// Sends all data from the socket, then its end.
async fn forward_from_socket(mut socket: impl AsyncRead + Unpin, frames: mpsc::Sender<Frame>) {
    let mut buffer = vec![0; MAX_CHUNK];
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        let chunk = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if frames.send(Frame::Data(Stream::Stdout, chunk)).await.is_err() {
            return;
        }
    }
    // The host may have closed the connection.
    let _ = frames.send(Frame::end(Stream::Stdout)).await;
}

/// Writes the host's data to the socket, until the data ends or a write fails.
async fn forward_to_socket(
    mut socket: impl AsyncWrite + Unpin,
    mut queued: QueueReceiver,
    frames: mpsc::Sender<Frame>,
) {
    while let Some(bytes) = queued.next().await {
        if bytes.is_empty() {
            // The socket may be broken.
            let _ = socket.shutdown().await;
            return;
        }
        if socket.write_all(&bytes).await.is_err()
            || !send_reply(&frames, &queued.acknowledge(bytes.len())).await
        {
            return;
        }
    }
}
