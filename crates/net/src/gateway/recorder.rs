//! Records what the guest asks its network for.

use std::{
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use banger_api::{DomainName, FlowVerdict};
use banger_sys::{Watched, netlink::logged_packets};
use jiff::Timestamp;
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::{sync::Notify, time::sleep};

use super::{dns::Address, flows::Flows, packet};
use crate::{record, rules};

/// Shortest time between two writes of the record.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which a record that is being read is written again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Size of the buffer for a logged packet with its attributes, in bytes.
const BUFFER: usize = 8 << 10;

/// The flows, and the file in which they are recorded.
#[derive(Debug)]
pub(super) struct Recorder {
    flows: Mutex<Flows>,
    file: File,
    changed: Notify,
}

impl Recorder {
    /// Goes on with the flows in the file.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let flows = Mutex::new(Flows::new(record::flows(&file)?));
        Ok(Self { flows, file, changed: Notify::new() })
    }

    /// Remembers the addresses that an answer about `name` gives it.
    pub(super) fn learn(&self, name: &DomainName, addresses: &[Address]) {
        self.flows().learn(name, addresses.iter().map(|found| found.address));
    }

    /// Records that a name was refused. Names that no host can have are left out.
    pub(super) fn refuse(&self, name: Option<&DomainName>) {
        if let Some(name) = name {
            self.flows().refuse(name, Timestamp::now());
            self.changed.notify_one();
        }
    }

    /// Counts the packets in what the log's socket has received.
    fn count(&self, bytes: &[u8]) {
        for logged in logged_packets(bytes) {
            let verdict = match logged.prefix {
                rules::ALLOWED => FlowVerdict::Allowed,
                rules::REFUSED => FlowVerdict::Refused,
                rules::UNREACHABLE => FlowVerdict::Unreachable,
                _ => continue,
            };
            if let Some(target) = packet::target(logged.packet) {
                self.flows().count(verdict, target, Timestamp::now());
                self.changed.notify_one();
            }
        }
    }

    /// Writes the record whenever flows have changed: at once, then at most once in [`SAVE_INTERVAL`]. It is tried again
    /// at the next change if it fails; a request for the flows returns the failure.
    pub(super) async fn save_changes(&self) {
        loop {
            self.changed.notified().await;
            let _ = self.save_now().await;
            sleep(SAVE_INTERVAL).await;
        }
    }

    /// Writes the record if flows have changed, also if it is being read.
    pub(super) async fn save_now(&self) -> io::Result<()> {
        while !self.save()? {
            sleep(RETRY_INTERVAL).await;
        }
        Ok(())
    }

    /// Writes the record if flows have changed. Returns false if it is being read.
    fn save(&self) -> io::Result<bool> {
        let Some(flows) = self.flows().changed() else { return Ok(true) };
        let replaced = record::replace(&self.file, &flows);
        if !matches!(replaced, Ok(true)) {
            self.flows().mark_changed();
        }
        replaced
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the packets that the rules log.
pub(super) async fn watch(log: &Watched, recorder: &Recorder) -> io::Result<()> {
    loop {
        log.readable().await?.clear_ready();
        receive(log, recorder)?;
    }
}

/// Counts the packets that the rules have logged.
pub(super) fn receive(log: &Watched, recorder: &Recorder) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        match recv(log, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((_, length)) => recorder.count(buffer.get(..length).unwrap_or_default()),
            // The kernel has dropped packets that did not fit into the socket.
            Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
