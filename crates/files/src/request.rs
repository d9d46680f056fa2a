//! The files that a receiver has requested, to compare with those that an untrusted sender sends.

use std::collections::BTreeMap;

use crate::stream::{StreamError, malformed};

/// Maximum number of bytes by which all requested files together may have grown since they were listed.
const MAX_GROWTH: u64 = 64 << 20;

/// Files to request by path. Each may arrive once, with about the size that it had when it was listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileRequest {
    /// Listed sizes of the files that have not arrived.
    sizes: BTreeMap<Vec<u8>, u64>,
    /// Number of directories that the sender may still enter.
    directories: usize,
    /// Number of bytes by which files may still grow.
    growth: u64,
}

impl FileRequest {
    /// Creates a request for `files`: paths, and sizes in bytes.
    pub fn new(files: impl IntoIterator<Item = (Vec<u8>, u64)>) -> Self {
        let sizes: BTreeMap<_, _> = files.into_iter().collect();
        // A sender in any order enters each file's directories at most once for the file.
        let directories = sizes.keys().flatten().filter(|byte| **byte == b'/').count();
        Self { sizes, directories, growth: MAX_GROWTH }
    }

    /// Encodes the request for the sender: the paths, each ended by a zero byte.
    pub fn encode(&self) -> Vec<u8> {
        self.paths().flat_map(|path| [path, &b"\0"[..]].concat()).collect()
    }

    /// Returns the paths of the files that have not arrived, in byte order.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.sizes.keys().map(Vec::as_slice)
    }

    /// Returns the listed size of all files that have not arrived, in bytes.
    pub fn size(&self) -> u64 {
        self.sizes.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// Returns the listed size of the largest of them, in bytes.
    pub fn largest(&self) -> u64 {
        self.sizes.values().copied().max().unwrap_or(0)
    }

    /// Checks that the sender may enter the directory `path`.
    ///
    /// # Errors
    /// Returns an error if no requested file is below it, or if the sender has entered too many directories.
    pub fn enter(&mut self, path: &[u8]) -> Result<(), StreamError> {
        let start = [path, &b"/"[..]].concat();
        let next = self.sizes.range(start.clone()..).next();
        if !next.is_some_and(|(file, _)| file.starts_with(&start)) {
            return Err(malformed("it contains a directory that was not requested"));
        }
        self.directories =
            self.directories.checked_sub(1).ok_or_else(|| malformed("it contains too many directories"))?;
        Ok(())
    }

    /// Records that the file or link `path` arrives. Returns the maximum size that the file may have.
    ///
    /// # Errors
    /// Returns an error if it was not requested, or has arrived before.
    pub fn take(&mut self, path: &[u8]) -> Result<u64, StreamError> {
        let size = self.sizes.remove(path);
        let size = size.ok_or_else(|| malformed("it contains a file that was not requested"))?;
        Ok(size.saturating_add(self.growth))
    }

    /// Records the `size` of a file for which [`take`](Self::take) has returned `max`.
    pub fn record_size(&mut self, max: u64, size: u64) {
        self.growth = self.growth.min(max.saturating_sub(size));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(files: &[(&str, u64)]) -> FileRequest {
        FileRequest::new(files.iter().map(|(path, size)| (path.as_bytes().to_vec(), *size)))
    }

    #[test]
    fn only_requested_files_arrive_and_only_once() {
        let mut request = request(&[("a/b/c", 1), ("d", 2)]);
        assert_eq!(request.encode(), b"a/b/c\0d\0");
        for other in [&b"a"[..], b"a/b", b"a/b/c/d", b"", b"e", b"a/b/c "] {
            assert!(request.clone().take(other).is_err(), "{other:?}");
        }
        assert_eq!(request.take(b"d").unwrap(), 2 + MAX_GROWTH);
        assert!(request.take(b"d").is_err(), "it arrives twice");
        request.take(b"a/b/c").unwrap();
    }

    #[test]
    fn only_directories_of_requested_files_are_entered_and_not_forever() {
        let mut request = request(&[("a/b/c", 1), ("a/bb", 2), ("a.x", 1), ("ab", 1)]);
        for other in [&b"a/c"[..], b"ab", b"b", b"a/b/c", b"", b"a."] {
            assert!(request.clone().enter(other).is_err(), "{other:?}");
        }
        for _ in 0..3 {
            request.enter(b"a").unwrap();
        }
        assert!(request.enter(b"a").is_err(), "three directories are in the requested paths");
    }

    #[test]
    fn all_files_together_may_grow_by_a_fixed_number_of_bytes() {
        let mut request = request(&[("a", 100), ("b", 100), ("c", u64::MAX)]);
        let max = request.take(b"a").unwrap();
        assert_eq!(max, 100 + MAX_GROWTH);
        request.record_size(max, 90);
        let max = request.take(b"b").unwrap();
        assert_eq!(max, 100 + MAX_GROWTH, "a smaller file adds nothing");
        request.record_size(max, max - 1);
        let max = request.take(b"c").unwrap();
        assert_eq!(max, u64::MAX);
        request.record_size(max, max);
        assert_eq!(request.growth, 0);
    }
}
