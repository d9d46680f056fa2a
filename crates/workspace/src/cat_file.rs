//! A running `git cat-file`, which reads objects one by one.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::{
    git::GitCommand,
    git_error::{GitError, unexpected_output},
    process::Process,
};

const CAT_FILE: &str = "cat-file";

/// A running `git cat-file --batch`, which reads objects one by one.
#[derive(Debug)]
pub(crate) struct Objects {
    process: BufReader<Process>,
}

/// An object's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectHeader {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) size: u64,
}

impl Objects {
    /// Starts `command`, which ends in `cat-file --batch`.
    pub(crate) fn start(command: GitCommand) -> Result<Self, GitError> {
        Ok(Self { process: BufReader::with_capacity(64 << 10, command.start()?) })
    }

    /// Requests the object `id`. [`content`](Self::content) then reads its content.
    pub(crate) fn header(&mut self, id: &str) -> Result<ObjectHeader, GitError> {
        let requested = self.process.get_mut().write_all(format!("{id}\n").as_bytes());
        let mut line = Vec::new();
        // Longer than any header.
        requested
            .and_then(|()| self.process.by_ref().take(1024).read_until(b'\n', &mut line))
            .map_err(|error| GitError::from_io(CAT_FILE, error))?;
        let line = String::from_utf8_lossy(&line);
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [id, kind, size] if size.bytes().all(|byte| byte.is_ascii_digit()) => Ok(ObjectHeader {
                id: (*id).to_owned(),
                kind: (*kind).to_owned(),
                size: size.parse().map_err(|_| unexpected_output(CAT_FILE, "an object is too large"))?,
            }),
            _ => Err(unexpected_output(CAT_FILE, format!("object {id}: {}", line.trim()))),
        }
    }

    /// Returns a reader of the requested object's content, of `size` bytes.
    pub(crate) fn content(&mut self, size: u64) -> BlobReader<'_> {
        BlobReader { objects: self, remaining: size, ended: false }
    }

    /// Reads the requested object's whole content.
    pub(crate) fn bytes(&mut self, header: &ObjectHeader) -> Result<Vec<u8>, GitError> {
        let mut bytes = Vec::new();
        let read = self.content(header.size).read_to_end(&mut bytes);
        read.map_err(|error| GitError::from_io(CAT_FILE, error))?;
        Ok(bytes)
    }
}

/// Reads the bytes of an object.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    objects: &'a mut Objects,
    remaining: u64,
    ended: bool,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 {
            if !self.ended {
                self.ended = true;
                self.objects.process.read_exact(&mut [0])?;
            }
            return Ok(0);
        }
        let count = self.objects.process.by_ref().take(self.remaining).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}
