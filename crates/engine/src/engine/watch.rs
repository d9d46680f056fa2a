//! Watching: logs, and what happens.

use std::collections::HashSet;

use banger_api::{ApiError, Happening, HappeningKind, Id, LogSource, ReadLog, VmState, WatchEvents};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Engine;
use crate::{
    dirs,
    error::EngineError,
    happenings::Following,
    logs::{About, Entries, Log, Wanted, send},
    store::VmRecord,
};

/// Bytes as they come. Dropping it is hanging up.
pub type Parts = mpsc::Receiver<Bytes>;

/// Parts that wait for a slow client before what sends them waits.
const BACKLOG: usize = 4;

impl Engine {
    /// A log of a VM, as far as it is kept; when it is followed, until the VM is down.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn logs(&self, reference: &str, read: ReadLog) -> Result<Parts, ApiError> {
        // Before the look at its state, so that its end is not missed.
        let happenings = self.0.store.happenings().follow();
        let vm = self.0.find_vm(reference)?;
        let folder = self.0.dirs.vm(vm.id.as_str());
        let (path, wanted) = match read.source {
            LogSource::Console => (folder.join("console.log"), Wanted::All),
            LogSource::Agent => (folder.join("console.log"), Wanted::OfAgent),
            LogSource::Vmm => (folder.join("vmm.log"), Wanted::All),
            LogSource::Daemon => (
                self.0.dirs.daemon_log(),
                Wanted::Entries(Entries { about: Some(about(&vm)), since: read.since }),
            ),
        };
        let log =
            Log { path, wanted, since: read.since, tail: read.tail, follow: read.follow && is_up(vm.state) };
        let engine = self.clone();
        Ok(sending(log, async move { engine.until_down(&vm.id, happenings).await }))
    }

    /// The daemon's own log.
    pub fn daemon_log(&self, read: ReadLog) -> Parts {
        let wanted = match read.since {
            Some(_) => Wanted::Entries(Entries { about: None, since: read.since }),
            None => Wanted::All,
        };
        let path = self.0.dirs.daemon_log();
        let log = Log { path, wanted, since: None, tail: read.tail, follow: read.follow };
        sending(log, std::future::pending())
    }

    async fn until_down(&self, id: &Id, mut happenings: Following) {
        loop {
            match happenings.next().await.what {
                HappeningKind::VmState { id: of, to, .. } if of == *id && !is_up(to) => return,
                HappeningKind::VmDeleted { id: of, .. } if of == *id => return,
                HappeningKind::Missed { .. } if !self.is_up(id) => return,
                _ => {}
            }
        }
    }

    fn is_up(&self, id: &Id) -> bool {
        matches!(self.0.store.vm(id), Ok(Some(vm)) if is_up(vm.state))
    }

    /// What has happened, as far as it is remembered, and what happens from now on: lines of JSON.
    pub fn happenings(&self, watch: WatchEvents) -> Parts {
        let (remembered, following) = self.0.store.happenings().remembered();
        let wanted = match watch {
            WatchEvents { follow: true, since: None } => Vec::new(),
            WatchEvents { since, .. } => {
                remembered.into_iter().filter(|one| since.is_none_or(|since| one.time >= since)).collect()
            }
        };
        let (to, parts) = mpsc::channel(BACKLOG);
        tokio::spawn(tell(wanted, watch.follow.then_some(following), to));
        parts
    }
}

fn is_up(state: VmState) -> bool {
    !matches!(state, VmState::Created | VmState::Stopped | VmState::Error)
}

fn about(vm: &VmRecord) -> About {
    About {
        id: vm.id.clone(),
        name: vm.name.to_string(),
        created_at: vm.created_at,
        operations: HashSet::new(),
    }
}

fn sending(log: Log, ended: impl Future<Output = ()> + Send + 'static) -> Parts {
    let (to, parts) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let path = log.path.clone();
        let folder = path.parent().filter(|folder| log.follow && !folder.exists());
        let there = async {
            if let Some(folder) = folder {
                // A VM that is only just being started.
                dirs::appears(folder).await?;
            }
            send(log, ended, &to).await.map_err(EngineError::file("read", &path))
        };
        tokio::select! {
            sent = there => if let Err(error) = sent {
                tracing::warn!(%error, "a log is not sent to its end");
            },
            () = to.closed() => {}
        }
    });
    parts
}

async fn tell(remembered: Vec<Happening>, following: Option<Following>, to: mpsc::Sender<Bytes>) {
    for happening in remembered {
        if to.send(line(&happening)).await.is_err() {
            return;
        }
    }
    let Some(mut following) = following else { return };
    loop {
        let happening = tokio::select! {
            happening = following.next() => happening,
            () = to.closed() => return,
        };
        if to.send(line(&happening)).await.is_err() {
            return;
        }
    }
}

fn line(happening: &Happening) -> Bytes {
    let mut line = serde_json::to_vec(happening).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
