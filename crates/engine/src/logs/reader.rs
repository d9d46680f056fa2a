//! Reads a log that is being written.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{older, times::Times};

/// Reads a log's bytes in order, the older file first. At the end, reading can continue when more is written, also
/// after a rotation. A reader that is slower than two rotations misses what they dropped.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    path: PathBuf,
    /// The file being read. It may have been renamed or deleted by now.
    held: Option<File>,
}

impl Reader {
    /// Opens the log at `path`, which need not exist yet. With `since`, starts at what was written then.
    pub(crate) fn open(path: &Path, since: Option<Timestamp>) -> io::Result<Self> {
        let mut reader = Self { path: path.to_owned(), held: None };
        let files = [older(path), path.to_owned()];
        for file in &files {
            let Some(mut held) = open(file)? else { continue };
            let from = since.map_or(Some(0), |since| Times::open(file).offset_since(since.as_second()));
            match from {
                Some(from) => held.seek(SeekFrom::Start(from))?,
                // All of it is too old, but the next file continues it.
                None => held.seek(SeekFrom::End(0))?,
            };
            reader.held = Some(held);
            if from.is_some() {
                break;
            }
        }
        Ok(reader)
    }

    /// Returns the number of bytes that are available and unread.
    pub(super) fn remaining(&mut self) -> io::Result<u64> {
        let Some(held) = &mut self.held else { return Ok(0) };
        let meta = held.metadata()?;
        let in_held = meta.len().saturating_sub(held.stream_position()?);
        // `None` if it is the file being read.
        let current = fs::metadata(&self.path).ok().filter(|current| identity(current) != identity(&meta));
        Ok(in_held + current.map_or(0, |current| current.len()))
    }

    /// Reads the next bytes into `buffer`; returns 0 if there are none yet.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.read_held(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let Some(next) = self.next_file()? else { return Ok(0) };
            // More may have been written between the read of its end and its rotation.
            let count = self.read_held(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.held = Some(next);
        }
    }

    fn read_held(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.held else { return Ok(0) };
        loop {
            match file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Opens the file that follows the one being read; `None` if that is still the current one.
    fn next_file(&self) -> io::Result<Option<File>> {
        let Some(held) = &self.held else { return open(&self.path) };
        let held = identity(&held.metadata()?);
        let is_held = |path: &Path| fs::metadata(path).is_ok_and(|meta| identity(&meta) == held);
        if is_held(&self.path) {
            return Ok(None);
        }
        let older = older(&self.path);
        if is_held(&older) {
            return open(&self.path);
        }
        // It was rotated twice while being read.
        match open(&older)? {
            Some(next) => Ok(Some(next)),
            None => open(&self.path),
        }
    }
}

fn identity(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logs::RotatingLog;

    fn rest(reader: &mut Reader) -> String {
        let (mut all, mut buffer) = (Vec::new(), [0; 7]);
        while let count @ 1.. = reader.read(&mut buffer).unwrap() {
            all.extend(&buffer[..count]);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn reading_during_writes_keeps_the_order_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut reader = Reader::open(&path, None).unwrap();
        assert_eq!(rest(&mut reader), "");
        let mut log = RotatingLog::open(&path, 40).unwrap();
        let mut read = String::new();
        let lines = || (0..100).map(|n| format!("line {n}\n"));
        for (n, line) in lines().enumerate() {
            log.write_all(line.as_bytes()).unwrap();
            if n % 3 == 0 {
                read += &rest(&mut reader);
            }
        }
        read += &rest(&mut reader);
        assert_eq!(read, lines().collect::<String>());
    }

    #[test]
    fn a_new_reader_reads_the_kept_part_and_a_slow_reader_continues_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = RotatingLog::open(&path, 40).unwrap();
        writeln!(log, "one").unwrap();
        let mut slow = Reader::open(&path, None).unwrap();
        (0..20).for_each(|n| writeln!(log, "line {n}").unwrap());
        let kept = rest(&mut Reader::open(&path, None).unwrap());
        assert!(kept.ends_with("line 19\n"), "{kept}");
        let first_file = rest(&mut slow);
        assert!(first_file.starts_with("one\n") && first_file.ends_with(&kept), "{first_file} / {kept}");
    }
}
