//! Accepts the host's connections, whatever goes wrong with one of them.

use std::{io, rc::Rc};

use tokio::{
    sync::{Notify, Semaphore},
    task::spawn_local,
};

use crate::{accept::accept_next, console::log, machine::Machine, server::Server, stream::Duplex};

/// Maximum number of connections: each exec holds four of the 1024 descriptors that a process has by default.
pub(crate) const MAX_CONNECTIONS: usize = 200;

/// Serves connections until the listener itself is broken. `accept` returns `None` for a caller that is not served.
pub(crate) async fn serve<M: Machine, S: Duplex + 'static>(
    server: &Rc<Server<M>>,
    mut accept: impl AsyncFnMut() -> io::Result<Option<S>>,
) -> io::Error {
    let slots = Rc::new(Semaphore::new(MAX_CONNECTIONS));
    let ended = Rc::new(Notify::new());
    let mut full = false;
    loop {
        let stream = match accept_next(&mut accept, &ended).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let Some(stream) = stream else { continue };
        // All connections are of one thread, so a free slot stays free until it is taken here.
        let is_full = slots.available_permits() == 0;
        if is_full && !full {
            log(&format!("{MAX_CONNECTIONS} connections are open, which is the limit: others are refused"));
        }
        full = is_full;
        let (server, slots, ended) = (server.clone(), slots.clone(), ended.clone());
        spawn_local(async move {
            if let Ok(_slot) = slots.try_acquire() {
                server.serve(stream).await;
            }
            ended.notify_one();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        io::{Read, Write},
        os::unix::net::{UnixListener as StdListener, UnixStream},
        path::Path,
        thread,
    };

    use banger_proto::{Decoder, Frame, Reply, Request};
    use bytes::BytesMut;
    use rustix::process::{Resource, Rlimit, setrlimit};
    use tokio::{
        net::UnixListener,
        task::{LocalSet, spawn_blocking},
    };

    use super::*;
    use crate::{
        boot_record::BootRecord,
        testing::{IdleMachine, in_own_process},
    };

    /// Serves the listener until `clients` ends, with so many more descriptors. Returns how often a connection could not
    /// be accepted.
    fn serve_during(
        listener: StdListener,
        descriptors: u64,
        clients: impl FnOnce() + Send + 'static,
    ) -> usize {
        let failures = Cell::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            listener.set_nonblocking(true).unwrap();
            let listener = UnixListener::from_std(listener).unwrap();
            let server = Server::start(BootRecord::default(), IdleMachine);
            let accept = async || match listener.accept().await {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(error) => {
                    failures.set(failures.get() + 1);
                    Err(error)
                }
            };
            let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let limit = Some(used + descriptors);
            setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
            tokio::select! {
                done = spawn_blocking(clients) => done.unwrap(),
                error = serve(&server, accept) => panic!("{error}"),
            }
        });
        failures.get()
    }

    fn connect(path: &Path) -> UnixStream {
        UnixStream::connect(path).unwrap()
    }

    /// Sends a frame's bytes after the greeting, and returns the reply, or `None` if the connection was refused.
    fn exchange(mut stream: &UnixStream, bytes: &[u8]) -> Option<Reply> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        loop {
            while let Some(frame) = decoder.next_frame().unwrap() {
                if frames.is_empty() {
                    // The server may have refused the connection already.
                    let _ = stream.write_all(bytes);
                }
                frames.push(frame);
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => decoder.buffer().extend_from_slice(&buffer[..count]),
            }
        }
        frames.get(1).map(|frame| frame.parse().unwrap())
    }

    fn ping(stream: &UnixStream) -> Option<Reply> {
        let mut bytes = BytesMut::new();
        Frame::control(&Request::Ping).unwrap().encode(&mut bytes);
        exchange(stream, &bytes)
    }

    #[test]
    fn the_agent_survives_running_out_of_descriptors() {
        in_own_process(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent");
            let listener = StdListener::bind(&path).unwrap();
            // They wait in the listener's queue.
            let waiting: Vec<_> = (0..40).map(|_| connect(&path)).collect();
            let failures = serve_during(listener, 3, move || {
                for stream in waiting {
                    assert!(matches!(ping(&stream), Some(Reply::Pong)));
                }
                assert!(matches!(ping(&connect(&path)), Some(Reply::Pong)));
            });
            assert!(failures > 0, "descriptors were not short");
        });
    }

    #[test]
    fn callers_beyond_the_limit_are_refused_until_another_leaves() {
        in_own_process(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent");
            let listener = StdListener::bind(&path).unwrap();
            serve_during(listener, 600, move || {
                let silent: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect(&path)).collect();
                // Each has been accepted.
                silent.iter().for_each(|mut stream| stream.read_exact(&mut [0]).unwrap());
                assert!(ping(&connect(&path)).is_none());
                drop(silent);
                while ping(&connect(&path)).is_none() {
                    thread::yield_now();
                }
            });
        });
    }

    #[test]
    fn a_request_longer_than_a_frame_is_refused_before_it_is_read() {
        in_own_process(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent");
            let listener = StdListener::bind(&path).unwrap();
            serve_during(listener, 600, move || {
                // The header of the longest possible frame.
                let mut bytes = BytesMut::new();
                Frame::control(&Request::Ping).unwrap().encode(&mut bytes);
                bytes[..4].fill(0xff);
                let reply = exchange(&connect(&path), &bytes[..8]);
                assert!(matches!(&reply, Some(Reply::Failed { .. })), "{reply:?}");
            });
        });
    }
}
