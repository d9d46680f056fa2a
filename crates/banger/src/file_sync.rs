//! The user's files that banger copies into every VM at each start, on the user's behalf.

use std::{
    env,
    fmt::Display,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use banger_api::{ApiError, ErrorKind, Vm, config::FileSync};
use banger_client::{Client, ToGuest, exchange};
use banger_files::{FileStat, PathWriter, Tree};
use banger_proto::{Workspace, WorkspaceAction};
use rustix::{fs::FileType, io::Errno};

use crate::{
    config,
    error::CommandError,
    transfer::Transfer,
    ui::{Table, Ui},
    workspace::read_time,
};

/// Permissions of a file whose entry sets none.
const DEFAULT_MODE: u32 = 0o600;

/// Directory that guest paths are relative to.
const GUEST_HOME: &[u8] = b"/root";

/// Copies the configured files into `vm`. Warns about missing and unreadable files; fails only if a signal stops it.
pub(crate) async fn after_start(client: &Client, ui: &Ui, vm: &Vm) -> Result<(), CommandError> {
    match config::load() {
        Ok(config) => copy_files(client, ui, vm, config.file_sync().to_vec()).await,
        Err(error) => {
            ui.warning(format_args!("no files are synced: {error}"));
            Ok(())
        }
    }
}

/// Copies the files of `entries` into `vm`; warns about those that it skips. Fails only if a signal stops it.
pub(crate) async fn copy_files(
    client: &Client,
    ui: &Ui,
    vm: &Vm,
    entries: Vec<FileSync>,
) -> Result<(), CommandError> {
    if entries.is_empty() {
        return Ok(());
    }
    match send(client, ui, vm, entries).await {
        Ok(skipped) => skipped.into_iter().for_each(|message| ui.warning(message)),
        Err(CommandError { error: Some(error), .. }) => {
            ui.warning(format_args!("no files are synced to VM {}: {error}", vm.name));
        }
        Err(stopped) => return Err(stopped),
    }
    Ok(())
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
    let stage = format!("Syncing files to {}", vm.name);
    let transfer = Transfer { client, ui, vm: vm.name.as_str(), stage: &stage, show_progress: true };
    let request = Workspace { path: GUEST_HOME.to_vec(), action: WorkspaceAction::Change };
    let result = transfer.run(async |on_event, cancelled| {
        exchange(client, vm.name.as_str(), request, send, read_time, on_event, (cancelled, || ())).await
    });
    result.await.map(|(skipped, _)| skipped)
}

fn io_error(error: io::Error) -> ApiError {
    ApiError::new(ErrorKind::Io, error.to_string())
}

/// Writes all files that `entries` name to `out`; returns messages about those that it skipped.
fn write_all(entries: &[FileSync], out: impl Write) -> io::Result<Vec<String>> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let mut sync = Syncer { out: PathWriter::new(out)?, skipped: Vec::new() };
    for entry in entries {
        match Source::find(&entry.host, home.as_deref()) {
            Ok(source) => sync.send_entry(&source, entry)?,
            Err(why) => sync.skip(&entry.host, why),
        }
    }
    sync.out.finish()?.flush()?;
    Ok(sync.skipped)
}

/// A path on the host, which is opened without following any link below `tree`.
#[derive(Debug)]
struct Source {
    /// The user's home directory, or `/`.
    tree: Tree,
    /// Path of the tree, for messages.
    root: PathBuf,
    /// Path of the file or directory in it.
    path: Vec<u8>,
}

impl Source {
    /// Finds `host`, which is absolute or begins with `~/`. The home directory itself may be a link, or be reached
    /// through one: this is the user's own choice.
    fn find(host: &str, home: Option<&Path>) -> Result<Self, String> {
        let in_home = home.and_then(|home| Path::new(host).strip_prefix(home).ok());
        let (root, path) = match (host.strip_prefix("~/"), home, in_home) {
            (Some(path), Some(home), _) => (home, Path::new(path)),
            (Some(_), None, _) => return Err("HOME is not set".to_owned()),
            (None, Some(home), Some(path)) => (home, path),
            (None, ..) => (Path::new("/"), Path::new(host)),
        };
        let tree = Tree::open(root).map_err(|error| format!("cannot open {}: {error}", root.display()))?;
        let names = path.as_os_str().as_encoded_bytes().split(|byte| *byte == b'/');
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
        Ok(Self { tree, root: root.to_owned(), path })
    }

    /// Returns the path below the tree for messages.
    fn shown(&self, path: &[u8]) -> String {
        self.root.join(String::from_utf8_lossy(path).as_ref()).display().to_string()
    }
}

struct Syncer<W> {
    out: PathWriter<W>,
    skipped: Vec<String>,
}

impl<W: Write> Syncer<W> {
    fn send_entry(&mut self, source: &Source, entry: &FileSync) -> io::Result<()> {
        let (path, guest) = (&source.path, entry.guest.as_bytes());
        match source.tree.stat_existing(path) {
            Ok(stat) if stat.file_type() == FileType::RegularFile => {
                self.send_file(source, path, guest, entry.mode.unwrap_or(DEFAULT_MODE))
            }
            Ok(stat) => self.send_child(source, path, guest, &stat),
            Err(error) => {
                self.skip(source.shown(path), reason(&error));
                Ok(())
            }
        }
    }

    /// Sends an entry of a directory with its own permissions.
    fn send_child(&mut self, source: &Source, path: &[u8], guest: &[u8], stat: &FileStat) -> io::Result<()> {
        match stat.file_type() {
            FileType::RegularFile => return self.send_file(source, path, guest, stat.mode),
            FileType::Directory => return self.send_dir(source, path, guest, stat),
            FileType::Symlink => self.skip(source.shown(path), "it is a symbolic link"),
            _ => self.skip(source.shown(path), "it is neither a file nor a directory"),
        }
        Ok(())
    }

    fn send_dir(&mut self, source: &Source, path: &[u8], guest: &[u8], stat: &FileStat) -> io::Result<()> {
        self.out.directory(guest, stat.mode)?;
        let names = match source.tree.names(path) {
            Ok(names) => names,
            Err(error) => {
                self.skip(source.shown(path), reason(&error));
                return Ok(());
            }
        };
        for name in names {
            let path = [path, b"/", &name].concat();
            let guest = [guest, b"/", &name].concat();
            match source.tree.stat_existing(&path) {
                Ok(stat) => self.send_child(source, &path, &guest, &stat)?,
                Err(error) => self.skip(source.shown(&path), reason(&error)),
            }
        }
        Ok(())
    }

    fn send_file(&mut self, source: &Source, path: &[u8], guest: &[u8], mode: u32) -> io::Result<()> {
        let read = match source.tree.file(path) {
            Ok((mut file, stat)) => self.out.file(guest, mode, stat.modified, &mut file)?,
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            self.skip(source.shown(path), reason(&error));
        }
        Ok(())
    }

    fn skip(&mut self, path: impl Display, why: impl Display) {
        self.skipped.push(format!("{path} is not synced: {why}"));
    }
}

/// Returns why a file cannot be read.
fn reason(error: &io::Error) -> String {
    if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        return "its path leads through a symbolic link, which is not followed".to_owned();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

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

    /// Returns the content that is sent for `host`, or the reason why nothing is.
    fn sent(host: &str, home: &Path) -> Result<String, String> {
        let guest = tempfile::tempdir().unwrap();
        let entry = FileSync { host: host.to_owned(), guest: "it".to_owned(), mode: None };
        let mut stream = Vec::new();
        let mut sync = Syncer { out: PathWriter::new(&mut stream).unwrap(), skipped: Vec::new() };
        sync.send_entry(&Source::find(host, Some(home))?, &entry).unwrap();
        let (out, skipped) = (sync.out, sync.skipped);
        out.finish().unwrap();
        change(&*stream, guest.path(), &mut Unpacked::default()).unwrap();
        match skipped.into_iter().next() {
            None => Ok(fs::read_to_string(guest.path().join("it")).unwrap()),
            Some(why) => Err(why),
        }
    }

    #[test]
    fn links_below_the_home_directory_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("real/user/.ssh")).unwrap();
        fs::create_dir_all(at("real/user/project/docs")).unwrap();
        fs::write(at("real/user/.ssh/key"), "secret").unwrap();
        fs::write(at("real/user/project/docs/key"), "harmless").unwrap();
        // The home directory is behind links of its own.
        symlink("real", at("home")).unwrap();
        symlink("user", at("real/me")).unwrap();
        let home = at("home/me");
        let absolute = |path: &str| format!("{}/{path}", home.display());
        assert_eq!(sent("~/project/docs/key", &home).unwrap(), "harmless");
        assert_eq!(sent(&absolute("project//docs/key"), &home).unwrap(), "harmless");
        // The repository replaces a directory that the user has agreed to.
        fs::rename(at("real/user/project/docs"), at("real/user/project/old")).unwrap();
        symlink("../.ssh", at("real/user/project/docs")).unwrap();
        for host in ["~/project/docs/key", &absolute("project/docs/key")] {
            let why = sent(host, &home).unwrap_err();
            assert!(why.contains("leads through a symbolic link"), "{why}");
        }
        // The same as a directory, and outside the home directory.
        assert!(sent("~/project/docs", &home).unwrap_err().contains("it is a symbolic link"));
        symlink("real/user", at("elsewhere")).unwrap();
        let elsewhere = at("elsewhere/.ssh/key").display().to_string();
        let other_home = tempfile::tempdir().unwrap();
        let why = sent(&elsewhere, other_home.path()).unwrap_err();
        assert!(why.contains("elsewhere/.ssh/key is not synced: its path leads through"), "{why}");
    }
}
