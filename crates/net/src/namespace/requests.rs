//! The gateway's side of the namespace process.

use std::{io, os::fd::OwnedFd};

use banger_sys::Watched;
use tokio::sync::{mpsc, oneshot};

use super::wire::GatewayRequest;
use crate::message::{receive, send};

/// Number of requests that may wait.
const QUEUE: usize = 16;

/// Sends requests to the namespace process.
#[derive(Debug, Clone)]
pub(crate) struct Requests(mpsc::Sender<(GatewayRequest, oneshot::Sender<bool>)>);

/// Carries the requests out, one at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Watched,
    queue: mpsc::Receiver<(GatewayRequest, oneshot::Sender<bool>)>,
}

impl Requests {
    /// Uses a socket to the process, in a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<(Self, Connection)> {
        let (sender, queue) = mpsc::channel(QUEUE);
        Ok((Self(sender), Connection { socket: Watched::new(socket)?, queue }))
    }

    /// Sends a request and waits until it is done. Returns false if it failed.
    pub(crate) async fn request(&self, request: GatewayRequest) -> bool {
        let (sender, done) = oneshot::channel();
        self.0.send((request, sender)).await.is_ok() && done.await.unwrap_or(false)
    }
}

impl Connection {
    /// Runs until the process ends.
    pub(crate) async fn run(self) -> io::Result<()> {
        let Self { socket, mut queue } = self;
        loop {
            tokio::select! {
                request = queue.recv() => {
                    let Some((request, done)) = request else { return Ok(()) };
                    send(&socket, &request, &[])?;
                    readable(&socket).await?;
                    let Some((is_done, _)) = receive::<bool>(&socket)? else { return Ok(()) };
                    // The request may have been given up.
                    let _ = done.send(is_done);
                }
                // It sends nothing by itself, so this is its end.
                ended = readable(&socket) => return ended,
            }
        }
    }
}

async fn readable(socket: &Watched) -> io::Result<()> {
    socket.readable().await?.clear_ready();
    Ok(())
}
