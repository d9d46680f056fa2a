//! A log that never grows over its cap.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{older, times::Times};

/// Writes a log: when its file is half of the cap, it becomes the older one of two. Writing never fails, so that a full
/// disk stops nobody who has something to say: what cannot be kept is lost.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    half: u64,
    file: Option<File>,
    size: u64,
    times: Option<Times>,
}

impl Rotating {
    /// The log at `path`, going on where it ended. Its two files together never hold more than `cap` bytes.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, cap: u64) -> io::Result<Self> {
        let mut log = Self::new(path, cap);
        log.opened()?;
        Ok(log)
    }

    /// The same, opened at the first write, and again later if that fails.
    fn new(path: &Path, cap: u64) -> Self {
        Self { path: path.to_owned(), half: cap / 2, file: None, size: 0, times: None }
    }

    /// A log that can be told what was written since when.
    pub(super) fn with_times(path: &Path, cap: u64) -> Self {
        Self { times: Some(Times::at(path)), ..Self::new(path, cap) }
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            for file in [older(&self.path), self.path.clone()] {
                // Of a build that kept more.
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

    /// Keeps `bytes`, written at `now`; of more than there is room for, the end.
    fn keep(&mut self, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let room = usize::try_from(self.half).unwrap_or(usize::MAX);
        let bytes = bytes.get(bytes.len().saturating_sub(room)..).unwrap_or_default();
        self.opened()?;
        if self.size + bytes.len() as u64 > self.half {
            self.rotate()?;
        }
        if let Some(times) = &mut self.times {
            times.note(now.as_second(), self.size);
        }
        let file = self.opened()?;
        match file.write_all(bytes) {
            Ok(()) => self.size += bytes.len() as u64,
            Err(error) => {
                // Some of it may have found room.
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
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.file = None,
            // Better lost than over the cap.
            Err(_) => {
                self.opened()?.set_len(0)?;
                self.size = 0;
                if let Some(times) = &mut self.times {
                    times.restart();
                }
            }
        }
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // There is nowhere to tell of it: this is the log.
        let _ = self.keep(bytes, Timestamp::now());
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
        fn a_log_never_grows_over_its_cap_and_keeps_the_end(
            cap in 2_u64..300,
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.log");
            let mut log = Rotating::open(&path, cap).unwrap();
            let mut all = Vec::new();
            for (part, reopened) in &parts {
                if *reopened {
                    log = Rotating::open(&path, cap).unwrap();
                }
                log.write_all(part).unwrap();
                all.extend(part);
                let kept = on_disk(&path);
                prop_assert!(kept.len() as u64 <= cap, "{} of {cap}", kept.len());
            }
            // A part that does not fit by itself loses its beginning; what follows the last such is whole.
            let end = parts.last().map_or(0, |(part, _)| part.len().min(usize::try_from(cap / 2).unwrap()));
            prop_assert!(on_disk(&path).ends_with(&all[all.len() - end..]));
        }
    }

    #[test]
    fn lines_that_fit_are_kept_in_order_up_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = Rotating::open(&path, 20_000).unwrap();
        (0..5000).for_each(|n| writeln!(log, "line {n}").unwrap());
        let kept = String::from_utf8(on_disk(&path)).unwrap();
        let lines: Vec<&str> = kept.lines().collect();
        let expected: Vec<String> = (5000 - lines.len()..5000).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, expected);
        assert!(lines.len() > 900, "{}", lines.len());
    }

    #[test]
    fn what_a_build_that_kept_more_has_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        for file in [older(&path), path.clone()] {
            fs::write(file, [b'x'; 500]).unwrap();
        }
        Rotating::open(&path, 100).unwrap().write_all(b"new").unwrap();
        assert_eq!(on_disk(&path), b"new");
    }

    #[test]
    fn a_log_that_was_removed_or_has_nowhere_to_be_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/a.log");
        let mut log = Rotating::new(&path, 20);
        log.write_all(b"lost").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        log.write_all(b"kept").unwrap();
        fs::remove_file(&path).unwrap();
        log.write_all(b"unseen").unwrap();
        log.write_all(b"again").unwrap();
        assert_eq!(on_disk(&path), b"again");
    }
}
