//! Copies files. A copy is an exec of the agent itself, so that the kernel enforces file permissions.

use std::{
    ffi::OsStr,
    io::{BufReader, BufWriter},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use banger_files::{Source, Unpacked, pack, unpack};
use banger_proto::{CopyDirection, CopyFiles, Exec};

use crate::subcommand::{self, BUFFER, SubcommandError, report};

/// The agent's subcommand for copies.
pub(crate) const COMMAND: &str = "copy";

/// Returns the exec that carries out `request`.
pub(crate) fn as_exec(request: &CopyFiles) -> serde_json::Result<Exec> {
    let stdin = request.direction == CopyDirection::In;
    Ok(Exec { user: request.user.clone(), stdin, ..subcommand::exec(COMMAND, request)? })
}

/// Runs the subcommand.
pub(crate) fn run(request: &str) -> Result<(), SubcommandError> {
    let request: CopyFiles = serde_json::from_str(request)?;
    let path = Path::new(OsStr::from_bytes(&request.path));
    match request.direction {
        CopyDirection::Out => {
            let source = Source::open(path, request.follow)
                .map_err(|error| SubcommandError::new(error.to_string()))?;
            match pack(&source, BufWriter::with_capacity(BUFFER, subcommand::stdout()?), &mut report)? {
                0 => Ok(()),
                1 => Err(SubcommandError::new("one file could not be read")),
                count => Err(SubcommandError::new(format!("{count} files could not be read"))),
            }
        }
        CopyDirection::In => {
            let mut done = Unpacked::default();
            let unpacked = unpack(BufReader::with_capacity(BUFFER, subcommand::stdin()?), path, &mut done);
            unpacked.map_err(|error| SubcommandError::from_unpack(&error, &done.so_far()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_request_is_encoded_losslessly_in_the_arguments() {
        let request = CopyFiles {
            direction: CopyDirection::In,
            path: b"/a b/\xff\n'\"".to_vec(),
            follow: false,
            user: Some("dev".to_owned()),
        };
        let exec = as_exec(&request).unwrap();
        assert!(exec.stdin && exec.user.as_deref() == Some("dev"));
        assert_eq!(serde_json::from_str::<CopyFiles>(&exec.argv[2]).unwrap(), request);
        assert!(!as_exec(&CopyFiles { direction: CopyDirection::Out, ..request }).unwrap().stdin);
    }
}
