//! A client's open files and directories.

use std::{
    collections::BTreeMap,
    fs::{File, ReadDir},
    path::PathBuf,
};

use super::status::StatusError;

/// Maximum number of open files and directories; reported to clients that ask.
pub(super) const MAX_HANDLES: usize = 200;

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Handle {
    File {
        file: File,
        /// Whether all writes go to the end of the file.
        appends: bool,
    },
    Directory {
        path: PathBuf,
        entries: ReadDir,
    },
}

/// All open handles by number; clients send the number back as they received it.
#[derive(Debug, Default)]
pub(super) struct Handles {
    last: u32,
    open: BTreeMap<u32, Handle>,
}

impl Handles {
    /// Returns an error if the maximum number of handles is open.
    pub(super) fn check_capacity(&self) -> Result<(), StatusError> {
        if self.open.len() < MAX_HANDLES { Ok(()) } else { Err(StatusError::TooMany) }
    }

    pub(super) fn add(&mut self, handle: Handle) -> [u8; 4] {
        self.last = self.last.wrapping_add(1);
        // After 2^32 handles, one of the first may still be open.
        while self.open.contains_key(&self.last) {
            self.last = self.last.wrapping_add(1);
        }
        self.open.insert(self.last, handle);
        self.last.to_be_bytes()
    }

    pub(super) fn get(&mut self, name: &[u8]) -> Result<&mut Handle, StatusError> {
        self.open.get_mut(&number(name)?).ok_or(StatusError::Malformed)
    }

    pub(super) fn file(&mut self, name: &[u8]) -> Result<(&mut File, bool), StatusError> {
        match self.get(name)? {
            Handle::File { file, appends } => Ok((file, *appends)),
            Handle::Directory { .. } => Err(StatusError::Malformed),
        }
    }

    pub(super) fn close(&mut self, name: &[u8]) -> Result<(), StatusError> {
        self.open.remove(&number(name)?).map(drop).ok_or(StatusError::Malformed)
    }
}

fn number(name: &[u8]) -> Result<u32, StatusError> {
    name.try_into().map(u32::from_be_bytes).map_err(|_| StatusError::Malformed)
}
