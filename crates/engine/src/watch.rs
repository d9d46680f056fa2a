//! Logs and events as byte streams.

use banger_api::{Dirs, Event, ReadLog, WatchEvents};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    dirs,
    error::EngineError,
    event_log::{EventLog, EventStream},
    logs::{EntryFilter, LineFilter, Log, send},
};

/// A stream of bytes. Dropping it disconnects the client.
pub type ByteStream = mpsc::Receiver<Bytes>;

/// Parts buffered for a slow client; beyond that, the sender waits.
const BACKLOG: usize = 4;

/// Sends the daemon's own log.
pub(crate) fn daemon_log(dirs: &Dirs, read: ReadLog) -> ByteStream {
    let filter = match read.since {
        Some(_) => LineFilter::Entries(EntryFilter { vm: None, since: read.since }),
        None => LineFilter::All,
    };
    let path = dirs.daemon_log();
    let log = Log { path, filter, since: None, tail: read.tail, follow: read.follow };
    stream_log(log, std::future::pending())
}

/// Sends the events kept so far, then new ones if `watch` follows them, as lines of JSON.
pub(crate) fn events(log: &EventLog, watch: WatchEvents) -> ByteStream {
    let (recent, stream) = log.recent_and_follow();
    let selected = match watch {
        WatchEvents { follow: true, since: None } => Vec::new(),
        WatchEvents { since, .. } => {
            recent.into_iter().filter(|event| since.is_none_or(|since| event.time >= since)).collect()
        }
    };
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(send_events(selected, watch.follow.then_some(stream), sender));
    receiver
}

/// Sends a log. A followed one is sent until `ended` completes.
pub(crate) fn stream_log(log: Log, ended: impl Future<Output = ()> + Send + 'static) -> ByteStream {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let path = log.path.clone();
        let dir = path.parent().filter(|dir| log.follow && !dir.exists());
        let sending = async {
            if let Some(dir) = dir {
                // The VM is just being started.
                dirs::wait_until_exists(dir).await?;
            }
            send(log, ended, &sender).await.map_err(EngineError::file("read", &path))
        };
        tokio::select! {
            sent = sending => if let Err(error) = sent {
                tracing::warn!(%error, "cannot send the rest of a log");
            },
            () = sender.closed() => {}
        }
    });
    receiver
}

async fn send_events(recent: Vec<Event>, stream: Option<EventStream>, sender: mpsc::Sender<Bytes>) {
    for event in recent {
        if sender.send(line(&event)).await.is_err() {
            return;
        }
    }
    let Some(mut stream) = stream else { return };
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = sender.closed() => return,
        };
        if sender.send(line(&event)).await.is_err() {
            return;
        }
    }
}

fn line(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
