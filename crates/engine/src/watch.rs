//! Logs and events as byte streams.

use banger_api::{Dirs, Happening, ReadLog, WatchEvents};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    dirs,
    error::EngineError,
    happenings::{Following, Happenings},
    logs::{Entries, LineFilter, Log, send},
};

/// A stream of bytes. Dropping it disconnects the client.
pub type Parts = mpsc::Receiver<Bytes>;

/// Parts buffered for a slow client; beyond that, the sender waits.
const BACKLOG: usize = 4;

/// Sends the daemon's own log.
pub(crate) fn daemon_log(dirs: &Dirs, read: ReadLog) -> Parts {
    let wanted = match read.since {
        Some(_) => LineFilter::Entries(Entries { about: None, since: read.since }),
        None => LineFilter::All,
    };
    let path = dirs.daemon_log();
    let log = Log { path, wanted, since: None, tail: read.tail, follow: read.follow };
    sending(log, std::future::pending())
}

/// Sends the events kept so far, then new ones if `watch` follows them, as lines of JSON.
pub(crate) fn events(happenings: &Happenings, watch: WatchEvents) -> Parts {
    let (remembered, following) = happenings.remembered();
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

/// Sends a log. A followed one is sent until `ended` completes.
pub(crate) fn sending(log: Log, ended: impl Future<Output = ()> + Send + 'static) -> Parts {
    let (to, parts) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let path = log.path.clone();
        let folder = path.parent().filter(|folder| log.follow && !folder.exists());
        let there = async {
            if let Some(folder) = folder {
                // The VM is just being started.
                dirs::appears(folder).await?;
            }
            send(log, ended, &to).await.map_err(EngineError::file("read", &path))
        };
        tokio::select! {
            sent = there => if let Err(error) = sent {
                tracing::warn!(%error, "cannot send the rest of a log");
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
