//! Places, changes, lists and fetches a workspace in the guest, each as an exec. Does not need git.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    thread::sleep,
    time::Duration,
};

use banger_files::{PathWriter, Time, Tree, UnpackError, Unpacked, change, list, place, safe_path};
use banger_proto::{Exec, Workspace, WorkspaceAction};
use rustix::{
    fs::FileType,
    time::{ClockId, clock_gettime},
};

use crate::subcommand::{self, BUFFER, SubcommandError, report};

/// The agent's subcommand for workspaces.
pub(crate) const COMMAND: &str = "workspace";

/// Maximum size of the list of paths to fetch, in bytes: a few hundred thousand files.
const MAX_PATHS: u64 = 64 << 20;

/// Interval for polling the clock that stamps files.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Returns the exec that carries out `request`.
pub(crate) fn as_exec(request: &Workspace) -> serde_json::Result<Exec> {
    let stdin = request.action != WorkspaceAction::List;
    Ok(Exec { stdin, ..subcommand::exec(COMMAND, request)? })
}

/// Runs the subcommand.
pub(crate) fn run(request: &str) -> Result<(), SubcommandError> {
    let request: Workspace = serde_json::from_str(request)?;
    let path = Path::new(OsStr::from_bytes(&request.path));
    if !path.is_absolute() {
        return Err(SubcommandError::new(format!("{} is not an absolute path", path.display())));
    }
    match request.action {
        WorkspaceAction::Place => unpack_stdin(|stdin, done| place(stdin, path, done)),
        WorkspaceAction::Change => unpack_stdin(|stdin, done| change(stdin, path, done)),
        WorkspaceAction::List => write_listing(path)
            .map_err(|error| SubcommandError::io(format_args!("cannot list {}", path.display()), &error)),
        WorkspaceAction::Fetch => fetch(path)
            .map_err(|error| SubcommandError::io(format_args!("cannot read {}", path.display()), &error)),
    }
}

fn unpack_stdin(
    unpack: impl FnOnce(BufReader<File>, &mut Unpacked) -> Result<(), UnpackError>,
) -> Result<(), SubcommandError> {
    let mut done = Unpacked::default();
    unpack(BufReader::with_capacity(BUFFER, subcommand::stdin()?), &mut done)
        .map_err(|error| SubcommandError::from_unpack(&error, ""))?;
    Ok(subcommand::stdout()?.write_all(&settled_time().to_bytes())?)
}

/// Returns a time at which all files were as sent. Every later change has a later time.
fn settled_time() -> Time {
    let then = Time::now();
    // The clock that stamps files ticks, and may be a tick behind.
    while coarse_time() <= then {
        sleep(POLL_INTERVAL);
    }
    then
}

fn coarse_time() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

fn write_listing(path: &Path) -> io::Result<()> {
    list(File::open(path)?, BufWriter::with_capacity(BUFFER, subcommand::stdout()?))
}

fn fetch(path: &Path) -> io::Result<()> {
    let tree = Tree::open(path)?;
    let mut paths = Vec::new();
    subcommand::stdin()?.take(MAX_PATHS).read_to_end(&mut paths)?;
    let mut out = PathWriter::new(BufWriter::with_capacity(BUFFER, subcommand::stdout()?))?;
    for path in paths.split(|byte| *byte == 0).filter(|path| safe_path(path)) {
        if let Err(error) = send(&tree, path, &mut out)? {
            report(format_args!("{}: {error}", String::from_utf8_lossy(path)));
        }
    }
    out.finish()?.flush()
}

/// Sends the file or link at `path`, if it exists. The inner error is from reading.
fn send(tree: &Tree, path: &[u8], out: &mut PathWriter<impl Write>) -> io::Result<io::Result<()>> {
    let meta = match tree.stat(path) {
        Ok(Some(meta)) => meta,
        Ok(None) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error)),
    };
    match meta.file_type() {
        FileType::RegularFile => match tree.file(path) {
            Ok((mut file, meta)) => out.file(path, meta.mode, meta.modified, &mut file),
            Err(error) => Ok(Err(error)),
        },
        FileType::Symlink => match tree.link(path) {
            Ok(target) => out.link(path, meta.modified, target).map(Ok),
            Err(error) => Ok(Err(error)),
        },
        _ => Ok(Ok(())),
    }
}
