//! Points at which the daemon, its guest and programs report to the test, and hang if the test wants that.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// File with the phases that hang, one a line, and the socket that receives the name of each phase that is reached.
const HANGING: &str = "hanging";
const SOCKET: &str = "phases";

/// Timeout against hangs of the test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum length of a phase's name, in bytes.
const MAX_NAME: usize = 4 << 10;

/// The side of the daemon, guest and programs.
#[derive(Debug, Clone)]
pub(crate) struct Phases {
    root: PathBuf,
}

/// The side of the test.
#[derive(Debug)]
pub(crate) struct Observer {
    root: PathBuf,
    reached: Receiver<String>,
    /// Phases that were reached and not waited for.
    seen: Vec<String>,
}

impl Phases {
    pub(crate) fn of(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reports that `phase` is reached.
    pub(crate) fn report(&self, phase: &str) {
        // The test may have ended.
        let _ = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(phase.as_bytes(), self.root.join(SOCKET)));
    }

    /// Reports that `phase` is reached; returns whether it hangs.
    pub(crate) fn reach(&self, phase: &str) -> bool {
        let hanging = fs::read_to_string(self.root.join(HANGING)).unwrap_or_default();
        let hangs = hanging.lines().any(|name| !name.is_empty() && phase.starts_with(name));
        self.report(phase);
        hangs
    }

    /// Reports that `phase` is reached, and never returns if it hangs.
    pub(crate) async fn pass(&self, phase: &str) {
        if self.reach(phase) {
            std::future::pending::<()>().await;
        }
    }
}

impl Observer {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(root.join(SOCKET))?;
        let (sender, reached) = channel();
        // The kernel keeps few datagrams, and a process that reports a phase would wait for the test.
        thread::spawn(move || {
            let mut phase = [0; MAX_NAME];
            while let Ok(length @ 1..) = socket.recv(&mut phase) {
                let name = String::from_utf8_lossy(phase.get(..length).unwrap_or_default()).into_owned();
                if sender.send(name).is_err() {
                    return;
                }
            }
        });
        Ok(Self { root: root.to_owned(), reached, seen: Vec::new() })
    }

    /// Makes phases that begin with one of these names hang from now on.
    pub(crate) fn hang(&self, phases: &[&str]) -> Result<()> {
        Ok(fs::write(self.root.join(HANGING), phases.join("\n"))?)
    }

    /// Waits until a phase that begins with `name` is reached; returns its full name.
    pub(crate) fn wait_for(&mut self, name: &str) -> Result<String> {
        loop {
            if let Some(at) = self.seen.iter().position(|phase| phase.starts_with(name)) {
                let phase = self.seen.remove(at);
                self.seen.drain(..at);
                return Ok(phase);
            }
            let phase = self.reached.recv_timeout(TIMEOUT);
            self.seen.push(phase.with_context(|| format!("{name} was not reached, but {:?}", self.seen))?);
        }
    }

    /// Forgets the phases that were reached so far.
    pub(crate) fn clear(&mut self) {
        self.seen.clear();
        while self.reached.try_recv().is_ok() {}
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // Ends the thread.
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", self.root.join(SOCKET)));
    }
}
