//! A daemon that knows one VM, and lets the case's guest answer on each connection to its agent.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use banger_proto::{Decoder, Frame, Reply, Request, Stream, Workspace};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use serde_json::{Value, json};

use crate::{Action, Conversation, Promise, Step, command::VM, encode, limits::GUARD, remote::Remote};

/// Time between two advances of the client's clock while the guest is silent. It only leaves the client time to run.
const TICK: Duration = Duration::from_millis(1);

/// Number of advances after which a client that waits for a silent guest has broken its promise: a day.
const MAX_TICKS: u32 = 2880;

/// Number of ticks between two signals of the user.
const TICKS_PER_SIGNAL: u32 = 200;

/// Maximum size of the standard input that is kept, in bytes.
const MAX_INPUT: usize = 64 << 20;

/// What the guest does next, and what has happened.
#[derive(Debug, Default)]
struct State {
    conversations: VecDeque<Conversation>,
    /// The conversations that have begun, in the same order.
    begun: Vec<Progress>,
    last_error: Option<String>,
    /// Time after which a client that sends nothing waits for the guest, so that both wait.
    patience: Duration,
    /// The client's process, once it is known.
    client: Option<Arc<Remote>>,
    /// Number of open connections.
    connections: usize,
    /// Number of bytes that the guest has sent.
    bytes_sent: u64,
    /// Standard input that the guest has received last.
    input: Vec<u8>,
    failure: Option<(Promise, String)>,
}

/// How far a conversation went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The client's request in words, once it was sent.
    pub(crate) request: Option<String>,
    /// Number of actions that the guest has begun.
    pub(crate) actions: usize,
}

/// The daemon. Its threads end with the process.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Daemon {
    /// Listens at `socket`.
    pub(crate) fn start(socket: &Path) -> Self {
        let daemon = Self { shared: Arc::default() };
        let listener = UnixListener::bind(socket).expect("the socket is new");
        let server = daemon.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                server.state().connections += 1;
                let server = server.clone();
                thread::spawn(move || {
                    // The client may disconnect at any time.
                    let _ = server.answer(&stream);
                    drop(stream);
                    server.state().connections -= 1;
                    server.shared.1.notify_all();
                });
            }
        });
        daemon
    }

    /// Prepares the answers to the next command. A client that has sent nothing for `patience` waits for the guest.
    pub(crate) fn prepare(&self, step: &Step, patience: Duration) {
        let (conversations, last_error) = (step.conversations.clone().into(), step.last_error.clone());
        *self.state() = State { conversations, last_error, patience, ..State::default() };
    }

    /// Says which client a silent guest affects. It waits for this.
    pub(crate) fn attach(&self, client: Arc<Remote>) {
        self.state().client = Some(client);
        self.shared.1.notify_all();
    }

    /// Waits until all connections have ended. Returns the number of bytes that the guest has sent, and its failure.
    pub(crate) fn finish(&self) -> (u64, Option<(Promise, String)>) {
        let (_, changed) = &*self.shared;
        let result = changed.wait_timeout_while(self.state(), GUARD, |state| state.connections > 0);
        let (mut state, _) = result.unwrap_or_else(PoisonError::into_inner);
        if state.connections > 0 && state.failure.is_none() {
            state.failure = Some((Promise::Time, "its connections stay open".to_owned()));
        }
        (state.bytes_sent, state.failure.take())
    }

    /// Returns the standard input that the guest has received last.
    pub(crate) fn input(&self) -> Vec<u8> {
        self.state().input.clone()
    }

    /// Returns the conversations that have begun since the last [`prepare`](Self::prepare), in order.
    pub(crate) fn begun(&self) -> Vec<Progress> {
        self.state().begun.clone()
    }

    /// Returns the time after which a client that does nothing waits.
    pub(crate) fn patience(&self) -> Duration {
        self.state().patience
    }

    /// Returns whether a connection is open.
    pub(crate) fn is_busy(&self) -> bool {
        self.state().connections > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(GUARD))?;
        let head = read_head(stream)?;
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, _) = target.split_once('?').unwrap_or((target, ""));
        match (method, path.rsplit('/').next().unwrap_or_default()) {
            (_, "tunnel") => {
                let upgrade = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                               upgrade: banger-tunnel\r\n\r\n";
                stream.write_all(upgrade.as_bytes())?;
                self.converse(stream)
            }
            (_, "logs") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                self.converse(stream)
            }
            ("DELETE", _) => respond(stream, &json!({"event": "done", "result": null})),
            ("POST", "vms") => respond(stream, &json!({"event": "done", "result": self.vm("running")})),
            (_, "daemon") => respond(stream, &status()),
            (_, "images") => respond(stream, &json!([])),
            _ if path.starts_with("/v1/images/") => respond(stream, &image()),
            (_, "ended") => respond(stream, &self.vm("error")),
            (_, "vms") => respond(stream, &json!([self.vm("running")])),
            _ => respond(stream, &self.vm("running")),
        }
    }

    fn vm(&self, state: &str) -> Value {
        let last_error = self.state().last_error.clone();
        // Without an error, the VM still runs.
        let state = if last_error.is_some() { state } else { "running" };
        json!({
            "id": "0123456789abcdef", "name": VM, "state": state, "image": "debian", "kernel": "generic",
            "vcpu": 1, "memory": 1 << 30, "system_overlay_size": 1 << 30, "disk_size": 1 << 30, "rm": false,
            "created_at": "2026-01-01T00:00:00Z", "last_error": last_error, "console": "/console.log",
        })
    }

    fn converse(&self, stream: &UnixStream) -> io::Result<()> {
        let mut state = self.state();
        let Some(conversation) = state.conversations.pop_front() else { return Ok(()) };
        let number = state.begun.len();
        state.begun.push(Progress::default());
        drop(state);
        stream.set_nonblocking(true)?;
        let mut connection =
            Connection { daemon: self, stream, decoder: Decoder::default(), received: Received::default() };
        let mut actions = 0;
        let done = conversation.0.iter().try_for_each(|action| {
            actions += 1;
            connection.perform(action)
        });
        let Received { input, request, .. } = connection.received;
        let mut state = self.state();
        // A later step may have begun.
        if let Some(progress) = state.begun.get_mut(number) {
            *progress = Progress { request, actions };
        }
        if !input.is_empty() {
            state.input = input;
        }
        done
    }
}

fn status() -> Value {
    json!({
        "version": "0", "build": "0", "pid": 1, "uptime_s": 1, "resident": 1, "running_vms": 1, "operations": 0,
        "socket": "/s", "state_dir": "/d", "log": "/l", "vmm": "qemu", "kvm": "no",
        "proxy": { "port": 7788, "error": null },
    })
}

fn image() -> Value {
    json!({
        "id": "fedcba9876543210", "name": "debian", "size": 0, "disk_usage": 0, "entries": 1,
        "init": "/sbin/init", "source": "registry", "created_at": "2026-01-01T00:00:00Z", "used_by": [],
    })
}

fn read_head(mut stream: &UnixStream) -> io::Result<String> {
    let (mut head, mut part) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&part[..count]),
        }
    };
    let start_of_body = head.split_off(end);
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length.saturating_sub(start_of_body.len())])?;
    Ok(head)
}

fn respond(mut stream: &UnixStream, body: &Value) -> io::Result<()> {
    let body = format!("{body}\n");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// Returns a request in words: a directory and what to do there, a command line, or the rest as it is.
fn words(json: &[u8]) -> String {
    match serde_json::from_slice(json) {
        Ok(Request::Workspace(Workspace { path, action })) => {
            format!("{} {action:?}", String::from_utf8_lossy(&path))
        }
        Ok(Request::Exec(exec)) if exec.command_line.is_none() => exec.argv.join(" "),
        Ok(request) => format!("{request:?}"),
        Err(error) => error.to_string(),
    }
}

/// What the client has sent over one connection.
#[derive(Debug, Default)]
struct Received {
    /// Its request in words.
    request: Option<String>,
    input: Vec<u8>,
    /// Bytes of the input that the guest has not acknowledged.
    unacknowledged: usize,
    input_ended: bool,
}

/// The guest's end of a connection to its agent.
struct Connection<'a> {
    daemon: &'a Daemon,
    stream: &'a UnixStream,
    decoder: Decoder,
    received: Received,
}

impl Connection<'_> {
    /// Performs `action`; fails when the client has disconnected.
    fn perform(&mut self, action: &Action) -> io::Result<()> {
        match action {
            Action::Send(bytes) => self.send(bytes),
            Action::SendRepeatedly(bytes, total) => {
                // Many of them at a time.
                let bytes = bytes.repeat((64 << 10) / bytes.len().max(1) + 1);
                let mut remaining = usize::try_from(*total).unwrap_or(usize::MAX);
                while remaining > 0 && !bytes.is_empty() {
                    let count = remaining.min(bytes.len());
                    self.send(&bytes[..count])?;
                    remaining -= count;
                }
                Ok(())
            }
            Action::AwaitRequest(_) => self.wait_until(|received| received.request.is_some()),
            Action::AwaitBytes(bytes) => self.await_bytes(bytes),
            Action::AwaitInput => loop {
                self.wait_until(|received| received.unacknowledged > 0 || received.input_ended)?;
                let bytes = std::mem::take(&mut self.received.unacknowledged);
                if bytes == 0 {
                    return Ok(());
                }
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.send(&encode::reply(&Reply::Acknowledged { bytes }))?;
            },
            Action::StaySilent => self.stay_silent(None),
            Action::StaySilentUntil(signal) => self.stay_silent(Some(*signal)),
        }
    }

    /// Sends `bytes`, and receives what the client sends meanwhile.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let writable = self.wait(PollFlags::OUT, GUARD)?;
            if writable {
                match (&mut &*self.stream).write(bytes) {
                    Ok(count) => {
                        self.daemon.state().bytes_sent += count as u64;
                        bytes = bytes.get(count..).unwrap_or_default();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Waits until the client has sent what `is_reached` needs. If the client waits too, the guest has fallen silent.
    fn wait_until(&mut self, is_reached: impl Fn(&Received) -> bool) -> io::Result<()> {
        let (start, patience) = (Instant::now(), self.daemon.patience());
        while !is_reached(&self.received) {
            if start.elapsed() > patience {
                return self.stay_silent(None);
            }
            self.wait(PollFlags::empty(), patience)?;
        }
        Ok(())
    }

    fn await_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (start, patience) = (Instant::now(), self.daemon.patience());
        while !self.received.input.windows(bytes.len()).any(|window| window == bytes) {
            if self.received.input_ended || start.elapsed() > patience {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.wait(PollFlags::empty(), patience)?;
        }
        Ok(())
    }

    /// Waits for `wanted` or for data, which it receives; returns whether `wanted` is ready.
    fn wait(&mut self, wanted: PollFlags, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(self.stream, wanted | PollFlags::IN)];
        poll(&mut fds, Some(&limit))?;
        let ready = fds[0].revents();
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.receive()?;
        }
        Ok(ready.intersects(wanted))
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut part = [0; 16 << 10];
        match (&mut &*self.stream).read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.decoder.buffer().extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Ok(Some(frame)) = self.decoder.next_frame() {
            match frame {
                Frame::Control(json) => _ = self.received.request.get_or_insert_with(|| words(&json)),
                Frame::Data(Stream::Stdin, bytes) if bytes.is_empty() => self.received.input_ended = true,
                Frame::Data(_, bytes) => {
                    self.received.unacknowledged += bytes.len();
                    if self.received.input.len() < MAX_INPUT {
                        self.received.input.extend_from_slice(&bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Advances the client's clock until it disconnects, and sends it `signal` again and again. Does nothing if neither is
    /// possible.
    fn stay_silent(&mut self, signal: Option<Signal>) -> io::Result<()> {
        let (_, changed) = &*self.daemon.shared;
        let patience = self.daemon.patience();
        let attached =
            changed.wait_timeout_while(self.daemon.state(), patience, |state| state.client.is_none());
        let client = attached.unwrap_or_else(PoisonError::into_inner).0.client.clone();
        let Some(client) = client.filter(|client| signal.is_some() || client.has_clock(self.stream)) else {
            return Ok(());
        };
        let start = Instant::now();
        for tick in 0.. {
            self.wait(PollFlags::empty(), TICK)?;
            client.tick();
            let problem = match signal {
                None if tick > MAX_TICKS => "it waits for a guest that is silent",
                Some(_) if start.elapsed() > GUARD => "it goes on although the user has interrupted it",
                Some(signal) if tick % TICKS_PER_SIGNAL == 0 => {
                    client.signal(signal);
                    continue;
                }
                _ => continue,
            };
            self.daemon.state().failure = Some((Promise::Time, problem.to_owned()));
            client.kill();
            break;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
