//! Sends a log to a client.

use std::{io, path::PathBuf, pin::pin};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    Reader,
    changes::Changes,
    lines::{LineFilter, Picker, last},
};

/// Number of bytes read and sent at a time.
const PART: usize = 64 << 10;

/// A log, and which part of it to send.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) wanted: LineFilter,
    pub(crate) since: Option<Timestamp>,
    pub(crate) tail: Option<usize>,
    pub(crate) follow: bool,
}

/// The client has disconnected.
#[derive(Debug)]
struct HungUp;

/// Sends the content of `log`; if it is followed, also what is written until `ended` completes. Waits for a slow
/// client without delaying others. Returns when the client disconnects.
pub(crate) async fn send(
    log: Log,
    ended: impl Future<Output = ()>,
    to: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let Log { path, wanted, since, tail, follow } = log;
    let mut ended = pin!(ended);
    let mut sending = Sending { reader: Reader::open(&path, since)?, picker: Picker::new(wanted), to };
    if sending.what_there_is(tail).await?.is_err() || !follow {
        return Ok(());
    }
    let changes = Changes::of(path)?;
    let mut goes_on = true;
    loop {
        // The watch is added before reading, so that no write in between is missed.
        changes.watch_file()?;
        if sending.what_has_come().await?.is_err() || !goes_on {
            return Ok(());
        }
        tokio::select! {
            changed = changes.next() => changed?,
            () = &mut ended => goes_on = false,
            () = to.closed() => return Ok(()),
        }
    }
}

struct Sending<'a> {
    reader: Reader,
    picker: Picker,
    to: &'a mpsc::Sender<Bytes>,
}

impl Sending<'_> {
    /// Sends the current content, even if more is written meanwhile. With `tail`, only its last lines.
    async fn what_there_is(&mut self, tail: Option<usize>) -> io::Result<Result<(), HungUp>> {
        let mut left = self.reader.left()?;
        let mut all = Vec::new();
        while left > 0 {
            let part = self.read(usize::try_from(left).unwrap_or(PART).min(PART)).await?;
            if part.is_empty() {
                break;
            }
            left = left.saturating_sub(part.len() as u64);
            let picked = self.picker.pick(part);
            if tail.is_some() {
                all.extend(picked);
            } else if self.give(picked).await.is_err() {
                return Ok(Err(HungUp));
            }
        }
        match tail {
            Some(count) => Ok(self.give(last(&all, count).to_vec()).await),
            None => Ok(Ok(())),
        }
    }

    /// Sends what was written since.
    async fn what_has_come(&mut self) -> io::Result<Result<(), HungUp>> {
        loop {
            let part = self.read(PART).await?;
            if part.is_empty() {
                return Ok(Ok(()));
            }
            let picked = self.picker.pick(part);
            if self.give(picked).await.is_err() {
                return Ok(Err(HungUp));
            }
        }
    }

    /// Reads on a blocking thread, as the disk may be slow.
    async fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut reader = std::mem::take(&mut self.reader);
        let reading = tokio::task::spawn_blocking(move || {
            let mut part = vec![0; most];
            let count = reader.read(&mut part)?;
            part.truncate(count);
            io::Result::Ok((reader, part))
        });
        let (reader, part) = reading.await.map_err(io::Error::other)??;
        self.reader = reader;
        Ok(part)
    }

    async fn give(&self, part: Vec<u8>) -> Result<(), HungUp> {
        if part.is_empty() {
            return Ok(());
        }
        self.to.send(part.into()).await.map_err(|_| HungUp)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::sync::oneshot;

    use super::*;
    use crate::logs::Rotating;

    fn log(path: &std::path::Path, tail: Option<usize>, follow: bool) -> Log {
        Log { path: path.to_owned(), wanted: LineFilter::All, since: None, tail, follow }
    }

    async fn all(mut parts: mpsc::Receiver<Bytes>) -> String {
        let mut all = Vec::new();
        while let Some(part) = parts.recv().await {
            all.extend(part);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn what_is_written_is_followed_across_rotations_until_the_end_by_several() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut writer = Rotating::open(&path, 60).unwrap();
        write!(writer, "old\nlast\n").unwrap();
        let mut ends = Vec::new();
        let followers: Vec<_> = [None, Some(1)]
            .into_iter()
            .map(|tail| {
                let (to, parts) = mpsc::channel(1);
                let (end, ended) = oneshot::channel::<()>();
                ends.push(end);
                let log = log(&path, tail, true);
                tokio::spawn(
                    async move { send(log, async { ended.await.unwrap_or(()) }, &to).await.unwrap() },
                );
                parts
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
            for parts in [&mut first, &mut second] {
                assert_eq!(parts.recv().await.unwrap(), line);
            }
        }
        writer.write_all(b"end\n").unwrap();
        ends.into_iter().for_each(|end| end.send(()).unwrap());
        assert_eq!(all(first).await, "end\n");
        assert_eq!(all(second).await, "end\n");
    }

    #[tokio::test]
    async fn one_that_hangs_up_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let (to, parts) = mpsc::channel(1);
        let following = tokio::spawn(async move {
            send(log(&path, None, true), std::future::pending(), &to).await.unwrap();
        });
        drop(parts);
        following.await.unwrap();
    }

    #[tokio::test]
    async fn without_following_it_ends_where_the_log_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut writer = Rotating::open(&path, 1 << 20).unwrap();
        (0..20_000).for_each(|n| writeln!(writer, "line {n}").unwrap());
        for (tail, lines) in [(None, 20_000), (Some(3), 3), (Some(0), 0)] {
            let (to, parts) = mpsc::channel(1);
            let log = log(&path, tail, false);
            let sending = async move { send(log, std::future::pending(), &to).await.unwrap() };
            let (text, ()) = tokio::join!(all(parts), sending);
            assert_eq!(text.lines().count(), lines);
            assert!(text.is_empty() || text.ends_with("line 19999\n"));
        }
    }
}
