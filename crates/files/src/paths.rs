//! A stream of single paths: folders are entered and left as the paths ask for it.

use std::io::{self, Read, Write};

use crate::{
    pack::copy,
    stream::{Entry, Item, MAX_DEPTH, MAX_NAME, MAX_PART, Writer},
    tree::Time,
};

/// Permissions of folders that come with a path.
const FOLDER: u32 = 0o755;

/// Whether `path` names something beneath where it begins, in components that a stream can carry.
pub fn safe_path(path: &[u8]) -> bool {
    let component =
        |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0);
    path.split(|byte| *byte == b'/').all(component) && depth(path) < MAX_DEPTH
}

/// Folders that `path` is in.
fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// Writes such a stream. In the order of their bytes, paths cost the fewest items.
#[derive(Debug)]
pub struct PathWriter<W> {
    out: Writer<W>,
    /// The folder entered last.
    inside: Vec<u8>,
    /// What folders were last modified at.
    now: Time,
    buffer: Vec<u8>,
}

impl<W: Write> PathWriter<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// When it cannot be written; so for all that follows, and with `InvalidInput` when a path is not a
    /// [safe](safe_path) one.
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = Writer::new(out)?;
        let now = Time::now();
        out.item(&Item::Folder(entry(b"", FOLDER, now)))?;
        Ok(Self { out, inside: Vec::new(), now, buffer: vec![0; MAX_PART] })
    }

    /// Writes a file with all that `content` has. The inner error is the reading's: then the file is not made.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn file(
        &mut self,
        path: &[u8],
        mode: u32,
        modified: Time,
        content: &mut impl Read,
    ) -> io::Result<io::Result<()>> {
        let name = self.go_to(path)?;
        self.out.item(&Item::File(entry(name, mode, modified)))?;
        let copied = copy(content, &mut self.out, &mut self.buffer)?;
        self.out.end_file(copied.is_ok())?;
        Ok(copied)
    }

    /// Has what is written go on.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes a link to `target`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn link(&mut self, path: &[u8], modified: Time, target: Vec<u8>) -> io::Result<()> {
        let name = self.go_to(path)?;
        self.out.item(&Item::Link(entry(name, 0o777, modified), target))
    }

    /// Writes that what is at `path` is to go.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        let name = self.go_to(path)?;
        self.out.item(&Item::Remove(name.to_vec()))
    }

    /// Writes a folder with these permissions, which it gets if it is not there yet.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn folder(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let name = self.go_to(path)?;
        self.out.item(&Item::Folder(entry(name, mode, self.now)))?;
        self.out.item(&Item::Leave)
    }

    /// Ends the stream, and returns what it was written to.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn end(mut self) -> io::Result<W> {
        for _ in 0..=components(&self.inside).count() {
            self.out.item(&Item::Leave)?;
        }
        self.out.item(&Item::End)?;
        Ok(self.out.into_inner())
    }

    /// Enters the folder that `path` is in, and returns its name there.
    fn go_to<'p>(&mut self, path: &'p [u8]) -> io::Result<&'p [u8]> {
        if !safe_path(path) {
            let message = format!("{} cannot be a file's path", String::from_utf8_lossy(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        if self.inside != folder {
            let common = components(&self.inside).zip(components(folder)).take_while(|(a, b)| a == b).count();
            for _ in common..components(&self.inside).count() {
                self.out.item(&Item::Leave)?;
            }
            for name in components(folder).skip(common) {
                self.out.item(&Item::Folder(entry(name, FOLDER, self.now)))?;
            }
            self.inside = folder.to_vec();
        }
        Ok(name)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn entry(name: &[u8], mode: u32, time: Time) -> Entry {
    Entry { name: name.to_vec(), mode: mode & 0o7777, seconds: time.seconds, nanoseconds: time.nanoseconds }
}
