//! Joins a client's connection with a guest's.

use std::{future::pending, io};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, split};

/// Maximum bytes to forward at a time; a frame of the agent has at most as many.
const CHUNK_SIZE: usize = 64 << 10;

/// Forwards bytes in both directions, until all of the guest's output is delivered or the client disconnects.
///
/// A guest that no longer reads may still send: a program that has ended leaves its last input unread, and its exit
/// status follows.
pub(crate) async fn splice(
    client: impl AsyncRead + AsyncWrite,
    guest: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (from_client, mut to_client) = split(client);
    let (from_guest, mut to_guest) = split(guest);
    let up = async {
        let sent = copy_buf(&mut BufReader::with_capacity(CHUNK_SIZE, from_client), &mut to_guest).await;
        if let Err(error) = sent.and(to_guest.shutdown().await) {
            tracing::debug!(%error, "a guest accepts no more input");
        }
        pending().await
    };
    let down = async {
        copy_buf(&mut BufReader::with_capacity(CHUNK_SIZE, from_guest), &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = down => ended,
        never = up => never,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::UnixStream};

    use super::*;

    fn start_splice() -> (UnixStream, UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, client_end) = UnixStream::pair().unwrap();
        let (guest, guest_end) = UnixStream::pair().unwrap();
        (client, guest, tokio::spawn(splice(client_end, guest_end)))
    }

    #[tokio::test]
    async fn the_guests_last_output_is_delivered_after_it_stops_reading() {
        let (mut client, client_end) = UnixStream::pair().unwrap();
        let (mut guest, guest_end) = UnixStream::pair().unwrap();
        client.write_all(b"input that is never read").await.unwrap();
        guest.write_all(b"exited").await.unwrap();
        drop(guest);
        let spliced = tokio::spawn(splice(client_end, guest_end));
        let mut output = [0; 6];
        client.read_exact(&mut output).await.unwrap();
        assert_eq!(&output, b"exited");
        spliced.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_forwarded_in_both_directions() {
        let (mut client, mut guest, spliced) = start_splice();
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = String::new();
        guest.read_to_string(&mut request).await.unwrap();
        guest.write_all(b"answer").await.unwrap();
        drop(guest);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!((request.as_str(), response.as_str()), ("ask", "answer"));
        spliced.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_disconnected_client_ends_the_splice() {
        let (client, mut guest, spliced) = start_splice();
        drop(client);
        assert_eq!(guest.read(&mut [0; 8]).await.unwrap(), 0);
        // The guest writes until the connection breaks.
        while guest.write_all(&[0; 1024]).await.is_ok() {}
        spliced.await.unwrap().unwrap_err();
    }
}
