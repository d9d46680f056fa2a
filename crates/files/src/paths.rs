//! A stream of single paths: the writer enters and leaves directories as the paths require.

use std::io::{self, Read, Write};

use crate::{
    pack::copy,
    stream::{Entry, Item, MAX_DEPTH, MAX_NAME, MAX_PART, Writer},
    tree::Time,
};

/// Permissions of directories that are implied by a path.
const IMPLIED_MODE: u32 = 0o755;

/// Returns whether `path` stays below its starting directory, in components that a stream can carry.
pub fn safe_path(path: &[u8]) -> bool {
    let component =
        |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0);
    path.split(|byte| *byte == b'/').all(component) && depth(path) < MAX_DEPTH
}

/// Returns the number of directories in `path`.
fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// Writes a stream of single paths. Paths in byte order need the fewest items.
#[derive(Debug)]
pub struct PathWriter<W> {
    out: Writer<W>,
    /// The directory entered last.
    current_dir: Vec<u8>,
    /// Modification time of directories.
    now: Time,
    buffer: Vec<u8>,
}

impl<W: Write> PathWriter<W> {
    /// Starts a stream.
    ///
    /// # Errors
    /// Returns an error if the stream cannot be written. The other methods do too, and return `InvalidInput` if a
    /// path is not [safe](safe_path).
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = Writer::new(out)?;
        let now = Time::now();
        out.item(&Item::Directory(entry(b"", IMPLIED_MODE, now)))?;
        Ok(Self { out, current_dir: Vec::new(), now, buffer: vec![0; MAX_PART] })
    }

    /// Writes a file with the bytes of `content`. The inner error is from reading; the file is then not created.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn file(
        &mut self,
        path: &[u8],
        mode: u32,
        modified: Time,
        content: &mut impl Read,
    ) -> io::Result<io::Result<()>> {
        let name = self.enter_parent(path)?;
        self.out.item(&Item::File(entry(name, mode, modified)))?;
        let copied = copy(content, &mut self.out, &mut self.buffer)?;
        self.out.end_file(copied.is_ok())?;
        Ok(copied)
    }

    /// Flushes the stream.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes a symbolic link to `target`.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn link(&mut self, path: &[u8], modified: Time, target: Vec<u8>) -> io::Result<()> {
        let name = self.enter_parent(path)?;
        self.out.item(&Item::Link(entry(name, 0o777, modified), target))
    }

    /// Writes a removal of `path`.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        let name = self.enter_parent(path)?;
        self.out.item(&Item::Remove(name.to_vec()))
    }

    /// Writes a directory. It gets the permissions `mode` only if it is created.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn directory(&mut self, path: &[u8], mode: u32) -> io::Result<()> {
        let name = self.enter_parent(path)?;
        self.out.item(&Item::Directory(entry(name, mode, self.now)))?;
        self.out.item(&Item::Leave)
    }

    /// Ends the stream, and returns the underlying writer.
    ///
    /// # Errors
    /// Returns the errors of [`new`](Self::new).
    pub fn finish(mut self) -> io::Result<W> {
        for _ in 0..=components(&self.current_dir).count() {
            self.out.item(&Item::Leave)?;
        }
        self.out.item(&Item::End)?;
        Ok(self.out.into_inner())
    }

    /// Enters the directory of `path`, and returns the last component.
    fn enter_parent<'p>(&mut self, path: &'p [u8]) -> io::Result<&'p [u8]> {
        if !safe_path(path) {
            let message = format!("{} is not a valid path", String::from_utf8_lossy(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        if self.current_dir != dir {
            let common =
                components(&self.current_dir).zip(components(dir)).take_while(|(a, b)| a == b).count();
            for _ in common..components(&self.current_dir).count() {
                self.out.item(&Item::Leave)?;
            }
            for name in components(dir).skip(common) {
                self.out.item(&Item::Directory(entry(name, IMPLIED_MODE, self.now)))?;
            }
            self.current_dir = dir.to_vec();
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
