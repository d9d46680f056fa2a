//! Copying files: an exec like any other, of the agent itself, so that whose files they are is for the kernel to say.

use std::{
    ffi::OsStr,
    fmt::Display,
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    process::ExitCode,
};

use banger_files::{Source, Unpacked, pack, unpack};
use banger_proto::{CopyDirection, CopyFiles, Exec};
use tokio::signal::unix::{SignalKind, signal};

/// The word by which the agent is told to do it.
pub(crate) const COMMAND: &str = "copy";

/// Bytes on their way at a time; a pipe holds as many.
const BUFFER: usize = 64 << 10;

/// The program that carries out `request`.
pub(crate) fn as_exec(request: &CopyFiles) -> serde_json::Result<Exec> {
    let argv = vec!["/proc/self/exe".to_owned(), COMMAND.to_owned(), serde_json::to_string(request)?];
    let stdin = request.direction == CopyDirection::In;
    Ok(Exec { argv, user: request.user.clone(), stdin, ..Exec::default() })
}

/// That program.
pub(crate) fn run(request: &str) -> ExitCode {
    match copy(request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tell(why);
            ExitCode::FAILURE
        }
    }
}

fn copy(request: &str) -> Result<(), String> {
    let request: CopyFiles = serde_json::from_str(request).map_err(|error| error.to_string())?;
    let _runtime = outlive_the_host().map_err(|error| error.to_string())?;
    let path = Path::new(OsStr::from_bytes(&request.path));
    match request.direction {
        CopyDirection::Out => {
            let source = Source::open(path, request.follow).map_err(|error| error.to_string())?;
            let stdout = whole_file(io::stdout()).map_err(|error| error.to_string())?;
            let unread = pack(&source, BufWriter::with_capacity(BUFFER, stdout), &mut tell);
            match unread.map_err(|error| error.to_string())? {
                0 => Ok(()),
                1 => Err("one thing could not be read".to_owned()),
                several => Err(format!("{several} things could not be read")),
            }
        }
        CopyDirection::In => {
            let stdin = whole_file(io::stdin()).map_err(|error| error.to_string())?;
            let mut done = Unpacked::default();
            let unpacked = unpack(BufReader::with_capacity(BUFFER, stdin), path, &mut done);
            unpacked.map_err(|error| format!("{error}{}", done.so_far()))
        }
    }
}

/// A host that hangs up breaks the stream too, and by that the copying ends in order: what is half made is removed. The
/// hang-up itself is listened for so that it does not end the program before.
fn outlive_the_host() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _in_it = runtime.enter();
    // It stays listened for when nobody asks whether it came.
    drop(signal(SignalKind::hangup())?);
    Ok(runtime)
}

/// A standard stream without the buffer that is for lines.
fn whole_file(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// A line for the host. A path has its line breaks as Rust writes them.
fn tell(text: impl Display) {
    let line = text.to_string().replace('\n', "\\n");
    // There is nowhere else to say it.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_and_either_way_survives_the_arguments() {
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
