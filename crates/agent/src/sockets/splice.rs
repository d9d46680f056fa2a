//! Joins a socket in the guest with a connection to the host: in frames, with the windows of an exec.

use std::{future::poll_fn, io, iter, pin::Pin, task::Poll};

use banger_proto::{Frame, HEADER_LEN, Reply, STDIN_WINDOW, Stream};
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::stream::Socket;
use crate::{
    connection::{Incoming, Outgoing},
    window::acknowledgement,
};

/// Maximum data in a frame, in bytes. A system call costs more than many bytes in a guest without KVM.
const MAX_CHUNK: usize = 256 << 10;

/// Bytes that are acknowledged at once while more are waiting.
const ACKNOWLEDGED_AT_ONCE: usize = STDIN_WINDOW / 4;

/// Forwards data until both directions have ended, or the host disconnects.
pub(super) async fn splice(socket: Socket, incoming: Incoming, mut outgoing: Outgoing) {
    if outgoing.send_message(&Reply::Connected).await.is_err() {
        return;
    }
    let (read, write) = tokio::io::split(socket);
    let (acknowledge, acknowledgements) = mpsc::unbounded_channel();
    tokio::select! {
        sent = send(read, acknowledgements, &mut outgoing) => {
            if sent.is_ok() {
                // The host may have closed the connection.
                let _ = outgoing.send_message(&Reply::Closed).await;
                outgoing.finish().await;
            }
        }
        () = receive(incoming, write, acknowledge) => {}
    }
}

/// Forwards the host's data to the socket, until the host disconnects or sends something else. `acknowledge` is dropped when
/// the socket gets no more data.
async fn receive(
    mut incoming: Incoming,
    socket: impl AsyncWrite + Unpin,
    acknowledge: mpsc::UnboundedSender<usize>,
) {
    if forward(&mut incoming, socket, acknowledge).await.is_ok() {
        // What comes nevertheless is discarded.
        while let Ok(Some(Frame::Data(Stream::Stdin, _))) = incoming.next().await {}
    }
}

/// The host has disconnected, or does not follow the protocol.
struct Disconnected;

/// Forwards the host's data to the socket, until it ends or the socket breaks. Sends the numbers of bytes to acknowledge.
/// Receives also while the socket accepts nothing, or the host receives nothing: so the host can always send its window.
async fn forward(
    incoming: &mut Incoming,
    mut socket: impl AsyncWrite + Unpin,
    acknowledge: mpsc::UnboundedSender<usize>,
) -> Result<(), Disconnected> {
    // Bytes that are not acknowledged, and those of them that the socket has accepted.
    let (mut unacknowledged, mut accepted) = (0, 0);
    // Bytes that the socket has not accepted yet.
    let mut waiting = BytesMut::new();
    let mut ended = false;
    while !(ended && waiting.is_empty()) {
        let written = tokio::select! {
            biased;
            written = socket.write(&waiting), if !waiting.is_empty() => {
                written.inspect(|count| waiting.advance(*count))
            }
            frame = incoming.next() => {
                let Ok(Some(Frame::Data(Stream::Stdin, mut data))) = frame else { return Err(Disconnected) };
                unacknowledged += data.len();
                if ended || unacknowledged > STDIN_WINDOW {
                    return Err(Disconnected);
                }
                ended = data.is_empty();
                let written = if waiting.is_empty() { write_now(&mut socket, &mut data).await } else { Ok(0) };
                waiting.extend_from_slice(&data);
                written
            }
        };
        let Ok(written) = written else { return Ok(()) };
        accepted += written;
        let more = !waiting.is_empty() || incoming.has_more();
        if accepted >= ACKNOWLEDGED_AT_ONCE || (accepted > 0 && !more) {
            unacknowledged -= accepted;
            acknowledge.send(std::mem::take(&mut accepted)).map_err(|_| Disconnected)?;
        }
    }
    // The socket may be broken.
    let _ = socket.shutdown().await;
    Ok(())
}

/// Writes what the socket accepts without waiting, and removes it from `data`.
async fn write_now(socket: &mut (impl AsyncWrite + Unpin), data: &mut Bytes) -> io::Result<usize> {
    let written = poll_fn(|context| match Pin::new(&mut *socket).poll_write(context, data) {
        Poll::Pending => Poll::Ready(Ok(0)),
        ready => ready,
    });
    written.await.inspect(|count| data.advance(*count))
}

/// Sends all data from the socket and its end, and acknowledgements until there are no more.
async fn send(
    mut socket: impl AsyncRead + Unpin,
    mut acknowledgements: mpsc::UnboundedReceiver<usize>,
    outgoing: &mut Outgoing,
) -> io::Result<()> {
    let mut frame = vec![0; HEADER_LEN + MAX_CHUNK];
    let (mut ended, mut acknowledged) = (false, false);
    while !(ended && acknowledged) {
        tokio::select! {
            count = acknowledgements.recv(), if !acknowledged => match count {
                Some(count) => {
                    let others = iter::from_fn(|| acknowledgements.try_recv().ok());
                    outgoing.send_message(&acknowledgement(count + others.sum::<usize>())).await?;
                }
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

#[cfg(test)]
mod tests {
    use banger_proto::STDIN_WINDOW;
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::connection;

    fn data(length: usize) -> Frame {
        Frame::Data(Stream::Stdin, vec![7; length].into())
    }

    /// Forwards `frames` to a socket that holds `room` bytes. `program` gets the socket's other end and the host's end of
    /// the connection, and returns those of them that stay open. Returns the number of acknowledged bytes.
    async fn forward_frames<T>(
        frames: &[Frame],
        room: usize,
        program: impl AsyncFnOnce(DuplexStream, DuplexStream) -> T,
    ) -> Result<usize, Disconnected> {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let (mut host, agent) = duplex(2 * STDIN_WINDOW);
        host.write_all(&bytes).await.unwrap();
        let (mut incoming, _outgoing) = connection::split(agent);
        let (socket, other) = duplex(room);
        let (acknowledge, mut acknowledgements) = mpsc::unbounded_channel();
        let forwarding = forward(&mut incoming, socket, acknowledge);
        let (forwarded, _open) = tokio::join!(forwarding, program(other, host));
        forwarded?;
        let mut acknowledged = 0;
        while let Some(count) = acknowledgements.recv().await {
            acknowledged += count;
        }
        Ok(acknowledged)
    }

    #[tokio::test]
    async fn a_slow_socket_gets_all_data_and_its_end() {
        for room in [1, 1000, 2 * STDIN_WINDOW] {
            let frames = [data(1), data(STDIN_WINDOW / 4), data(STDIN_WINDOW / 4), Frame::end(Stream::Stdin)];
            let read = async |mut socket: DuplexStream, host| {
                let mut received = Vec::new();
                socket.read_to_end(&mut received).await.unwrap();
                assert_eq!(received.len(), STDIN_WINDOW / 2 + 1);
                host
            };
            let acknowledged = forward_frames(&frames, room, read).await.ok().unwrap();
            assert_eq!(acknowledged, STDIN_WINDOW / 2 + 1);
        }
    }

    #[tokio::test]
    async fn a_host_that_disconnects_is_noticed_while_the_socket_accepts_nothing() {
        let forwarded = forward_frames(&[data(1000)], 1, async |socket, _host| socket).await;
        assert!(forwarded.is_err());
    }

    #[tokio::test]
    async fn a_host_that_exceeds_the_window_is_disconnected() {
        let keep_open = async |socket, host| (socket, host);
        let forwarded = forward_frames(&[data(STDIN_WINDOW), data(1)], 1, keep_open).await;
        assert!(forwarded.is_err());
    }

    #[tokio::test]
    async fn a_broken_socket_ends_only_its_direction() {
        let forwarded = forward_frames(&[data(1000)], 1, async |_socket, host| host).await;
        assert_eq!(forwarded.ok(), Some(0));
    }
}
