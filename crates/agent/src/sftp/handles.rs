//! A client's open files and directories.

use std::{
    collections::BTreeMap,
    fs::{File, ReadDir},
    path::PathBuf,
};

use super::failure::Refused;

/// Maximum number of open files and directories; reported to clients that ask.
pub(super) const MOST: usize = 200;

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Handle {
    File {
        file: File,
        /// Whether all writes go to the end of the file.
        appends: bool,
    },
    Folder {
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
    pub(super) fn room(&self) -> Result<(), Refused> {
        if self.open.len() < MOST { Ok(()) } else { Err(Refused::TooMany) }
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

    pub(super) fn get(&mut self, name: &[u8]) -> Result<&mut Handle, Refused> {
        self.open.get_mut(&number(name)?).ok_or(Refused::Malformed)
    }

    pub(super) fn file(&mut self, name: &[u8]) -> Result<(&mut File, bool), Refused> {
        match self.get(name)? {
            Handle::File { file, appends } => Ok((file, *appends)),
            Handle::Folder { .. } => Err(Refused::Malformed),
        }
    }

    pub(super) fn close(&mut self, name: &[u8]) -> Result<(), Refused> {
        self.open.remove(&number(name)?).map(drop).ok_or(Refused::Malformed)
    }
}

fn number(name: &[u8]) -> Result<u32, Refused> {
    name.try_into().map(u32::from_be_bytes).map_err(|_| Refused::Malformed)
}
