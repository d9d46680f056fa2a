//! The fake vsock device: same arguments and sockets as the real one; see [`vsock`](super::vsock).

use std::{collections::VecDeque, ffi::OsString};

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
};

use super::{
    exit_with_tests,
    faults::{Faults, Phase},
    host_root, line, value,
    vsock::host_socket,
};

/// Runs the process.
pub(crate) async fn main(args: &[OsString]) -> Result<()> {
    let (socket, uds) = (value(args, "--vhost-socket")?, value(args, "--host-socket")?);
    let number = |option| anyhow::Ok(value(args, option)?.to_str().context("not text")?.parse::<u32>()?);
    number("--guest-cid")?;
    let ready_port = number("--ready-port")?;
    let root = host_root(socket)?;
    exit_with_tests(&root)?;
    Faults::of(&root).reach(Phase::Device).await;
    let ready = UnixStream::connect(host_socket(uds, ready_port)).await?;
    let host = UnixListener::bind(uds)?;
    // The engine starts QEMU when this socket appears. Renamed so that it never appears between bind and listen.
    let partial = socket.with_extension("partial");
    let guest = UnixListener::bind(&partial)?;
    std::fs::rename(partial, socket)?;
    serve(&host, &guest, (ready_port, ready)).await
}

async fn serve(host: &UnixListener, guest: &UnixListener, ready: (u32, UnixStream)) -> Result<()> {
    let (ready_port, mut ready) = (ready.0, Some(ready.1));
    // Host connections that the guest has not accepted, and guest connections that wait to accept one.
    let (mut calling, mut accepting) = (VecDeque::new(), VecDeque::new());
    loop {
        tokio::select! {
            accepted = host.accept() => calling.push_back(accepted?.0),
            accepted = guest.accept() => {
                let mut stream = accepted?.0;
                let Ok(line) = line(&mut stream).await else { continue };
                match line.strip_prefix("CALL ") {
                    // The guest's connection is closed if it asks for more.
                    Some(port) => {
                        if let Some(host) = ready.take_if(|_| port.parse() == Ok(ready_port)) {
                            tokio::spawn(splice(host, stream));
                        }
                    }
                    None => accepting.push_back(stream),
                }
            }
        }
        while !calling.is_empty() && !accepting.is_empty() {
            if let (Some(host), Some(guest)) = (calling.pop_front(), accepting.pop_front()) {
                tokio::spawn(splice(host, guest));
            }
        }
    }
}

async fn splice(mut host: UnixStream, mut guest: UnixStream) {
    // Either side may disconnect at any time.
    let _ = copy_bidirectional(&mut host, &mut guest).await;
}
