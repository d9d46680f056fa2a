//! The user's files that banger copies into every VM at each start, on the user's behalf.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, BufWriter, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use banger_api::{ApiError, ErrorKind, Vm, config::FileSync};
use banger_client::{Client, FromGuest, ToGuest, exchange};
use banger_files::{PathWriter, Time};
use banger_proto::{Workspace, WorkspaceAction};

use crate::{
    config,
    error::CommandError,
    transfer::Transfer,
    ui::{Table, Ui},
};

/// Permissions of a file whose entry sets none.
const DEFAULT_MODE: u32 = 0o600;

/// Directory that guest paths are relative to.
const GUEST_HOME: &[u8] = b"/root";

/// Copies the configured files into `vm`. Warns about missing and unreadable files, but does not fail.
pub(crate) async fn after_start(client: &Client, ui: &Ui, vm: &Vm) {
    let config = match config::load() {
        Ok(config) => config,
        Err(error) => return ui.warning(format_args!("no files are synced: {error}")),
    };
    copy_files(client, ui, vm, config.file_sync().to_vec()).await;
}

/// Copies the files of `entries` into `vm`; warns about those that it skips.
pub(crate) async fn copy_files(client: &Client, ui: &Ui, vm: &Vm, entries: Vec<FileSync>) {
    if entries.is_empty() {
        return;
    }
    match send(client, ui, vm, entries).await {
        Ok(skipped) => skipped.into_iter().for_each(|message| ui.warning(message)),
        Err(CommandError { error: Some(error), .. }) => {
            ui.warning(format_args!("no files are synced to VM {}: {error}", vm.name));
        }
        Err(_) => ui.warning(format_args!("not all files are synced to VM {}", vm.name)),
    }
}

/// Returns a table of host and guest paths. They are quoted, so that they cannot mislead about the rest of a line.
pub(crate) fn table(entries: &[FileSync]) -> Table {
    let mut table = Table::new(["HOST PATH", "GUEST PATH"]);
    for entry in entries {
        table.row([format!("{:?}", entry.host), format!("{:?}", format!("/root/{}", entry.guest))]);
    }
    table
}

async fn send(
    client: &Client,
    ui: &Ui,
    vm: &Vm,
    entries: Vec<FileSync>,
) -> Result<Vec<String>, CommandError> {
    let send = move |out: ToGuest| write_all(&entries, BufWriter::new(out)).map_err(io_error);
    let receive = |mut input: FromGuest| io::copy(&mut input, &mut io::sink()).map_err(io_error);
    let stage = format!("Syncing files to {}", vm.name);
    let transfer = Transfer { client, ui, vm: vm.name.as_str(), stage: &stage, show_progress: true };
    let request = Workspace { path: GUEST_HOME.to_vec(), action: WorkspaceAction::Change };
    let result = transfer.run(async |on_event, cancelled| {
        exchange(client, vm.name.as_str(), request, send, receive, on_event, cancelled).await
    });
    result.await.map(|(skipped, _)| skipped)
}

fn io_error(error: io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, error.to_string())
}

/// Writes all files that `entries` name to `out`; returns messages about those that it skipped.
fn write_all(entries: &[FileSync], out: impl Write) -> io::Result<Vec<String>> {
    let mut sync = Syncer { out: PathWriter::new(out)?, skipped: Vec::new() };
    for entry in entries {
        let Some(path) = expand_home(&entry.host) else {
            sync.skipped.push(format!("{} is not synced: HOME is not set", entry.host));
            continue;
        };
        sync.send_entry(&path, entry)?;
    }
    sync.out.finish()?.flush()?;
    Ok(sync.skipped)
}

/// Returns `host` with the user's home directory in place of `~`.
fn expand_home(host: &str) -> Option<PathBuf> {
    match host.strip_prefix("~/") {
        Some(rest) => env::var_os("HOME").map(|home| Path::new(&home).join(rest)),
        None => Some(host.into()),
    }
}

struct Syncer<W> {
    out: PathWriter<W>,
    skipped: Vec<String>,
}

impl<W: Write> Syncer<W> {
    fn send_entry(&mut self, path: &Path, entry: &FileSync) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => {
                self.send_file(path, entry.guest.as_bytes(), entry.mode.unwrap_or(DEFAULT_MODE), &meta)
            }
            Ok(meta) => self.send_child(path, entry.guest.as_bytes(), &meta),
            Err(error) => {
                self.skip(path, error);
                Ok(())
            }
        }
    }

    /// Sends an entry of a directory with its own permissions.
    fn send_child(&mut self, path: &Path, guest: &[u8], meta: &Metadata) -> io::Result<()> {
        if meta.is_symlink() {
            self.skip(path, "it is a symbolic link");
            Ok(())
        } else if meta.is_file() {
            self.send_file(path, guest, meta.permissions().mode(), meta)
        } else if meta.is_dir() {
            self.send_dir(path, guest, meta)
        } else {
            self.skip(path, "it is neither a file nor a directory");
            Ok(())
        }
    }

    fn send_dir(&mut self, path: &Path, guest: &[u8], meta: &Metadata) -> io::Result<()> {
        self.out.directory(guest, meta.permissions().mode())?;
        let mut names = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries.into_iter().map(|entry| entry.file_name()).collect::<Vec<_>>(),
            Err(error) => {
                self.skip(path, error);
                return Ok(());
            }
        };
        names.sort_unstable();
        for name in names {
            let path = path.join(&name);
            let guest = [guest, b"/", OsStr::as_bytes(&name)].concat();
            match fs::symlink_metadata(&path) {
                Ok(meta) => self.send_child(&path, &guest, &meta)?,
                Err(error) => self.skip(&path, error),
            }
        }
        Ok(())
    }

    fn send_file(&mut self, path: &Path, guest: &[u8], mode: u32, meta: &Metadata) -> io::Result<()> {
        let modified =
            Time { seconds: meta.mtime(), nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0) };
        let read = match File::open(path) {
            Ok(mut file) => self.out.file(guest, mode, modified, &mut file)?,
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            self.skip(path, error);
        }
        Ok(())
    }

    fn skip(&mut self, path: &Path, why: impl std::fmt::Display) {
        self.skipped.push(format!("{} is not synced: {why}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use banger_files::{Unpacked, change};

    use super::*;

    #[test]
    fn files_are_private_directories_keep_modes_and_links_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("host/dir")).unwrap();
        fs::create_dir_all(at("guest")).unwrap();
        fs::write(at("host/file"), "file").unwrap();
        fs::write(at("host/dir/script"), "script").unwrap();
        fs::set_permissions(at("host/dir/script"), fs::Permissions::from_mode(0o751)).unwrap();
        fs::set_permissions(at("host/dir"), fs::Permissions::from_mode(0o710)).unwrap();
        symlink("/etc/passwd", at("host/dir/link")).unwrap();
        let entry = |host: &str, guest: &str, mode| FileSync {
            host: at(host).display().to_string(),
            guest: guest.into(),
            mode,
        };
        let entries = [
            entry("host/file", ".file", None),
            entry("host/file", "deep/in/file", Some(0o644)),
            entry("host/dir", ".dir", None),
            entry("host/none", "none", None),
        ];
        let mut stream = Vec::new();
        let skipped = write_all(&entries, &mut stream).unwrap();
        assert!(skipped[0].contains("dir/link is not synced: it is a symbolic link"), "{skipped:?}");
        assert!(skipped[1].contains("host/none is not synced: No such file"), "{skipped:?}");
        for _ in 0..2 {
            change(&*stream, &at("guest"), &mut Unpacked::default()).unwrap();
        }
        let mode = |name: &str| fs::metadata(at("guest").join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([".file", "deep/in/file", ".dir", ".dir/script"].map(mode), [0o600, 0o644, 0o710, 0o751]);
        assert!(!at("guest/.dir/link").exists());
    }
}
