//! A log of limited size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{older, times::Times};

/// Writes a log. A file that would exceed half of the cap becomes the older one of two. Writes never fail, so that a
/// full disk does not stop the writer: bytes that cannot be stored are lost.
#[derive(Debug)]
pub struct RotatingLog {
    path: PathBuf,
    half: u64,
    file: Option<File>,
    size: u64,
    times: Option<Times>,
}

impl RotatingLog {
    /// Opens the log at `path` to append to it. Its two files together never exceed `cap` bytes.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened.
    pub fn open(path: &Path, cap: u64) -> io::Result<Self> {
        let mut log = Self::new(path, cap);
        log.open_file()?;
        Ok(log)
    }

    /// Creates a log that is opened at the first write, and again later if that fails.
    fn new(path: &Path, cap: u64) -> Self {
        Self { path: path.to_owned(), half: cap / 2, file: None, size: 0, times: None }
    }

    /// Creates a log that records when its bytes were written.
    pub(super) fn with_times(path: &Path, cap: u64) -> Self {
        Self { times: Some(Times::open(path)), ..Self::new(path, cap) }
    }

    fn open_file(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            for file in [older(&self.path), self.path.clone()] {
                // Left by a build with a larger cap.
                if fs::metadata(&file).is_ok_and(|meta| meta.len() > self.half) {
                    fs::remove_file(&file)?;
                }
            }
            let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            if self.size == 0
                && let Some(times) = &mut self.times
            {
                times.restart();
            }
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Appends `bytes`, written at `now`; only their end if they exceed half of the cap.
    fn append(&mut self, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let max = usize::try_from(self.half).unwrap_or(usize::MAX);
        let bytes = bytes.get(bytes.len().saturating_sub(max)..).unwrap_or_default();
        self.open_file()?;
        if self.size + bytes.len() as u64 > self.half {
            self.rotate()?;
        }
        if let Some(times) = &mut self.times {
            times.record(now.as_second(), self.size);
        }
        let file = self.open_file()?;
        match file.write_all(bytes) {
            Ok(()) => self.size += bytes.len() as u64,
            Err(error) => {
                // Some of the bytes may have been written.
                self.size = file.metadata()?.len();
                return Err(error);
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, older(&self.path)) {
            Ok(()) => {
                if let Some(times) = &mut self.times {
                    times.rotate();
                }
                self.file = None;
            }
            // The file was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.file = None,
            // Losing the log is better than exceeding the cap.
            Err(_) => {
                self.open_file()?.set_len(0)?;
                self.size = 0;
                if let Some(times) = &mut self.times {
                    times.restart();
                }
            }
        }
        Ok(())
    }
}

impl Write for RotatingLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An error in the log cannot be logged.
        let _ = self.append(bytes, Timestamp::now());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on_disk(path: &Path) -> Vec<u8> {
        [older(path), path.to_owned()].iter().flat_map(|file| fs::read(file).unwrap_or_default()).collect()
    }

    proptest! {
        #[test]
        fn a_log_never_exceeds_its_cap_and_keeps_the_end(
            cap in 2_u64..300,
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.log");
            let mut log = RotatingLog::open(&path, cap).unwrap();
            let mut all = Vec::new();
            for (part, reopened) in &parts {
                if *reopened {
                    log = RotatingLog::open(&path, cap).unwrap();
                }
                log.write_all(part).unwrap();
                all.extend(part);
                let kept = on_disk(&path);
                prop_assert!(kept.len() as u64 <= cap, "{} of {cap}", kept.len());
            }
            // A part larger than half of the cap loses its beginning. What follows the last such part is complete.
            let end = parts.last().map_or(0, |(part, _)| part.len().min(usize::try_from(cap / 2).unwrap()));
            prop_assert!(on_disk(&path).ends_with(&all[all.len() - end..]));
        }
    }

    #[test]
    fn a_full_log_keeps_its_latest_lines_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = RotatingLog::open(&path, 20_000).unwrap();
        (0..5000).for_each(|n| writeln!(log, "line {n}").unwrap());
        let kept = String::from_utf8(on_disk(&path)).unwrap();
        let lines: Vec<&str> = kept.lines().collect();
        let expected: Vec<String> = (5000 - lines.len()..5000).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, expected);
        assert!(lines.len() > 900, "{}", lines.len());
    }

    #[test]
    fn oversized_files_of_an_earlier_build_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        for file in [older(&path), path.clone()] {
            fs::write(file, [b'x'; 500]).unwrap();
        }
        RotatingLog::open(&path, 100).unwrap().write_all(b"new").unwrap();
        assert_eq!(on_disk(&path), b"new");
    }

    #[test]
    fn writes_succeed_while_the_log_or_its_directory_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/a.log");
        let mut log = RotatingLog::new(&path, 20);
        log.write_all(b"lost").unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        log.write_all(b"kept").unwrap();
        fs::remove_file(&path).unwrap();
        log.write_all(b"unseen").unwrap();
        log.write_all(b"again").unwrap();
        assert_eq!(on_disk(&path), b"again");
    }
}
