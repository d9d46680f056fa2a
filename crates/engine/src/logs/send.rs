//! Sends a log to a client.

use std::{io, path::PathBuf, pin::pin};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    Reader,
    changes::Changes,
    lines::{LineFilter, LineSelector, last_lines},
};

/// Number of bytes read and sent at a time.
const CHUNK_SIZE: usize = 64 << 10;

/// A log, and which part of it to send.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) filter: LineFilter,
    pub(crate) since: Option<Timestamp>,
    pub(crate) tail: Option<usize>,
    pub(crate) follow: bool,
}

/// The client has disconnected.
#[derive(Debug)]
struct Disconnected;

/// Sends the content of `log`; if it is followed, also what is written until `ended` completes. Waits for a slow
/// client without delaying others. Returns when the client disconnects.
pub(crate) async fn send(
    log: Log,
    ended: impl Future<Output = ()>,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let Log { path, filter, since, tail, follow } = log;
    let mut ended = pin!(ended);
    let mut sending =
        LogSender { reader: Reader::open(&path, since)?, selector: LineSelector::new(filter), sender };
    if sending.send_existing(tail).await?.is_err() || !follow {
        return Ok(());
    }
    let changes = Changes::new(path)?;
    let mut is_open = true;
    loop {
        // The watch is added before reading, so that no write in between is missed.
        changes.watch_file()?;
        if sending.send_new().await?.is_err() || !is_open {
            return Ok(());
        }
        tokio::select! {
            changed = changes.next() => changed?,
            () = &mut ended => is_open = false,
            () = sender.closed() => return Ok(()),
        }
    }
}

struct LogSender<'a> {
    reader: Reader,
    selector: LineSelector,
    sender: &'a mpsc::Sender<Bytes>,
}

impl LogSender<'_> {
    /// Sends the current content, even if more is written meanwhile. With `tail`, only its last lines.
    async fn send_existing(&mut self, tail: Option<usize>) -> io::Result<Result<(), Disconnected>> {
        let mut remaining = self.reader.remaining()?;
        let mut all = Vec::new();
        while remaining > 0 {
            let chunk = self.read(usize::try_from(remaining).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE)).await?;
            if chunk.is_empty() {
                break;
            }
            remaining = remaining.saturating_sub(chunk.len() as u64);
            let selected = self.selector.select(chunk);
            if tail.is_some() {
                all.extend(selected);
            } else if self.send_chunk(selected).await.is_err() {
                return Ok(Err(Disconnected));
            }
        }
        match tail {
            Some(count) => Ok(self.send_chunk(last_lines(&all, count).to_vec()).await),
            None => Ok(Ok(())),
        }
    }

    /// Sends what was written since.
    async fn send_new(&mut self) -> io::Result<Result<(), Disconnected>> {
        loop {
            let chunk = self.read(CHUNK_SIZE).await?;
            if chunk.is_empty() {
                return Ok(Ok(()));
            }
            let selected = self.selector.select(chunk);
            if self.send_chunk(selected).await.is_err() {
                return Ok(Err(Disconnected));
            }
        }
    }

    /// Reads on a blocking thread, as the disk may be slow.
    async fn read(&mut self, max: usize) -> io::Result<Vec<u8>> {
        let mut reader = std::mem::take(&mut self.reader);
        let reading = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; max];
            let count = reader.read(&mut chunk)?;
            chunk.truncate(count);
            io::Result::Ok((reader, chunk))
        });
        let (reader, chunk) = reading.await.map_err(io::Error::other)??;
        self.reader = reader;
        Ok(chunk)
    }

    async fn send_chunk(&self, chunk: Vec<u8>) -> Result<(), Disconnected> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.sender.send(chunk.into()).await.map_err(|_| Disconnected)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::sync::oneshot;

    use super::*;
    use crate::logs::RotatingLog;

    fn log(path: &std::path::Path, tail: Option<usize>, follow: bool) -> Log {
        Log { path: path.to_owned(), filter: LineFilter::All, since: None, tail, follow }
    }

    async fn all(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend(chunk);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn two_followers_receive_all_lines_across_rotations_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut writer = RotatingLog::open(&path, 60).unwrap();
        write!(writer, "old\nlast\n").unwrap();
        let mut ends = Vec::new();
        let followers: Vec<_> = [None, Some(1)]
            .into_iter()
            .map(|tail| {
                let (sender, receiver) = mpsc::channel(1);
                let (end, ended) = oneshot::channel::<()>();
                ends.push(end);
                let log = log(&path, tail, true);
                tokio::spawn(async move {
                    send(log, async { ended.await.unwrap_or(()) }, &sender).await.unwrap()
                });
                receiver
            })
            .collect();
        let [mut first, mut second] = <[_; 2]>::try_from(followers).unwrap();
        // Both have started.
        assert_eq!(first.recv().await.unwrap(), "old\nlast\n");
        assert_eq!(second.recv().await.unwrap(), "last\n");
        let mut expected = String::new();
        for n in 0..50 {
            let line = format!("line {n}\n");
            writer.write_all(line.as_bytes()).unwrap();
            expected += &line;
            // Both receive each line: a reader that keeps up loses nothing to a rotation.
            for receiver in [&mut first, &mut second] {
                assert_eq!(receiver.recv().await.unwrap(), line);
            }
        }
        writer.write_all(b"end\n").unwrap();
        ends.into_iter().for_each(|end| end.send(()).unwrap());
        assert_eq!(all(first).await, "end\n");
        assert_eq!(all(second).await, "end\n");
    }

    #[tokio::test]
    async fn sending_stops_when_the_client_disconnects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let (sender, receiver) = mpsc::channel(1);
        let following = tokio::spawn(async move {
            send(log(&path, None, true), std::future::pending(), &sender).await.unwrap();
        });
        drop(receiver);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn without_follow_only_the_existing_content_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut writer = RotatingLog::open(&path, 1 << 20).unwrap();
        (0..20_000).for_each(|n| writeln!(writer, "line {n}").unwrap());
        for (tail, lines) in [(None, 20_000), (Some(3), 3), (Some(0), 0)] {
            let (sender, receiver) = mpsc::channel(1);
            let log = log(&path, tail, false);
            let sending = async move { send(log, std::future::pending(), &sender).await.unwrap() };
            let (text, ()) = tokio::join!(all(receiver), sending);
            assert_eq!(text.lines().count(), lines);
            assert!(text.is_empty() || text.ends_with("line 19999\n"));
        }
    }
}
