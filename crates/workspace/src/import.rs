//! Imports a guest's files into a temporary repository with `git fast-import`.

use std::io::{self, Read, Write};

use crate::{
    TempRepository, WorkspaceError, budget::ResourceLimits, git::GitError, process::Process,
    repository::object_id, temp_repo::quote,
};

const FAST_IMPORT: &str = "fast-import";

/// Ref of the commit with the guest's files in the temporary repository.
const WORK: &str = "refs/banger/work";

/// A running `git fast-import`: blobs as they arrive, then one commit.
pub(crate) struct Import {
    git: io::BufWriter<Process>,
    marks: usize,
}

impl Import {
    /// Starts git in `temp_repo`.
    pub(crate) fn start(temp_repo: &TempRepository) -> Result<Self, WorkspaceError> {
        let arguments = ["-c", "fastimport.unpackLimit=1", FAST_IMPORT, "--quiet", "--force", "--done"];
        // Its files are as large as those that it gets.
        let limits = ResourceLimits { file_size: u64::MAX, memory: temp_repo.budget().memory };
        let git = temp_repo.command(arguments).within(0, Some(limits)).start()?;
        Ok(Self { git: io::BufWriter::with_capacity(64 << 10, git), marks: 0 })
    }

    /// Sends a blob of `size` bytes, and returns its mark.
    pub(crate) fn blob(&mut self, size: u64, content: &mut dyn Read) -> Result<usize, WorkspaceError> {
        self.marks += 1;
        self.send(format!("blob\nmark :{}\ndata {size}\n", self.marks).as_bytes())?;
        io::copy(content, &mut self.git).map_err(import_error)?;
        self.send(b"\n")?;
        Ok(self.marks)
    }

    /// Starts the commit of the files.
    pub(crate) fn commit(&mut self, parent: Option<&str>) -> Result<(), WorkspaceError> {
        let mut head = format!("commit {WORK}\ncommitter banger <banger@localhost> 0 +0000\ndata 0\n");
        if let Some(parent) = parent {
            head.push_str(&format!("from {parent}\n"));
        }
        self.send(head.as_bytes())
    }

    /// Sets the file `path` in the commit to the blob `id`, an id or a mark.
    pub(crate) fn modify(&mut self, mode: u32, id: &str, path: &[u8]) -> Result<(), WorkspaceError> {
        self.send(&[format!("M {mode:o} {id} ").as_bytes(), &quote(path), b"\n"].concat())
    }

    /// Deletes the file `path` from the commit.
    pub(crate) fn delete(&mut self, path: &[u8]) -> Result<(), WorkspaceError> {
        self.send(&[b"D ", &*quote(path), b"\n"].concat())
    }

    /// Ends the import, and returns the id of the commit.
    pub(crate) fn finish(mut self, temp_repo: &TempRepository) -> Result<String, WorkspaceError> {
        self.send(b"\ndone\n")?;
        let git = self.git.into_inner().map_err(|error| import_error(error.into_error()))?;
        git.finish()?;
        Ok(object_id(&temp_repo.run(&["rev-parse", "--verify", WORK], &[])?)?)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), WorkspaceError> {
        self.git.write_all(bytes).map_err(import_error)
    }
}

fn import_error(error: io::Error) -> WorkspaceError {
    GitError::from_io(FAST_IMPORT, error).into()
}
