use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use banger_api::{ApiError, ErrorKind};
use banger_client::Client;
use banger_workspace::{Change, ChangeKind};

use crate::{
    commands::reference::reference,
    error::CommandError,
    signals,
    ui::{Output, Ui},
    workspace::{Workspaces, display_path},
};

/// Maximum number of files in the summary; the patch has all.
const MAX_SHOWN: usize = 50;

/// Export a VM's changes as a patch
///
/// The patch has every change since the commit that was sent: commits, edits, new files, deletions, renames, modes
/// and links, also of binary files, but no ignored files. It includes local edits that were sent. Nothing changes in
/// the VM or on the host. On a terminal, control characters in the patch are shown as text.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  banger vm workspace export box | git apply
  banger vm workspace export box --output box.patch
  banger vm workspace export box -o json               list of changed files, without the patch")]
pub(crate) struct Export {
    /// Id, name, or unique prefix of either
    #[arg(value_parser = reference())]
    vm: String,
    /// Directory of the repository in the VM [default: the only one]
    #[arg(long, value_name = "DIRECTORY")]
    guest_path: Option<String>,
    /// File for the patch [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Commit to compare with [default: the commit that was sent]
    #[arg(long, value_name = "COMMIT")]
    base_commit: Option<String>,
    /// Print the list of changed files instead of the patch
    #[arg(short = 'o', value_enum, value_name = "FORMAT", conflicts_with = "output")]
    list: Option<Output>,
}

impl Export {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        let workspaces = Workspaces::new(&client, ui)?;
        let vm = client.vm(&self.vm).await?;
        let record = workspaces.find(&vm, self.guest_path.as_deref())?;
        let exported = workspaces.export(&vm, record, self.base_commit.clone()).await?;
        for file in &exported.left_out {
            ui.warning(format_args!("{} is not in the patch: {}", display_path(&file.path), file.reason));
        }
        match self.list {
            Some(format) => list(ui, &exported.changes, format)?,
            None => {
                summary(ui, &exported.changes);
                self.write(ui, &exported.patch)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self, ui: &Ui, patch: &[u8]) -> Result<(), CommandError> {
        let Some(path) = &self.output else { return Ok(ui.bytes(patch)?) };
        // Removes the temporary file, whenever a signal comes.
        let _phase = signals::cancellable();
        replace(path, patch).map_err(|error| {
            ApiError::new(ErrorKind::Io, format!("cannot write {}: {error}", path.display())).into()
        })
    }
}

/// Replaces the file at `path`, which is unchanged after a failure. Writes into it if it is not a regular file.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let permissions = match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return fs::write(path, content),
        Ok(meta) => Some(meta.permissions()),
        Err(_) => None,
    };
    // The target of a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As far as the user's umask allows.
    builder.prefix(".partial-").permissions(fs::Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(dir)?;
    file.write_all(content)?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn list(ui: &Ui, changes: &[Change], format: Output) -> io::Result<()> {
    match format {
        Output::Json => ui.json(&changes),
        Output::Table => changes.iter().try_for_each(|change| ui.line(line(change))),
    }
}

fn summary(ui: &Ui, changes: &[Change]) {
    match changes {
        [] => ui.note("nothing has changed"),
        [_] => ui.note("one file has changed:"),
        changes => ui.note(format_args!("{} files have changed:", changes.len())),
    }
    for change in changes.iter().take(MAX_SHOWN) {
        ui.note(format_args!("  {}", line(change)));
    }
    if changes.len() > MAX_SHOWN {
        ui.note(format_args!("  and {} more", changes.len() - MAX_SHOWN));
    }
}

fn line(change: &Change) -> String {
    let label = match change.change {
        ChangeKind::Added => "new",
        ChangeKind::Modified => "modified",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Renamed => "renamed",
        ChangeKind::TypeChanged => "type changed",
    };
    let from = change.old_path.as_ref().map(|path| format!("{path} -> ")).unwrap_or_default();
    format!("{label:12} {from}{}", change.path).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn file_names_cannot_control_the_terminal() {
        let path = "a\x1b[2J\u{9b}1m\u{202e}\nhint: run this".to_owned();
        let changes = [Change { change: ChangeKind::Added, path: path.clone(), old_path: None }];
        let ui = Ui::for_test(false, true);
        list(&ui, &changes, Output::Table).unwrap();
        summary(&ui, &changes);
        let line = "new          a^[[2J<U+009B>1m<U+202E>\\nhint: run this\n";
        assert_eq!(ui.printed_text(), [line.to_owned(), format!("one file has changed:\n  {line}")]);
        list(&ui, &changes, Output::Json).unwrap();
        let [json, _] = ui.printed_text();
        assert!(json.contains(r"a\u001b[2J\u009b1m\u202e\nhint: run this"), "{json}");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed[0]["path"], path);
    }

    #[test]
    fn the_output_replaces_a_file_or_the_target_of_a_link_and_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        replace(&file, b"one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        replace(&link, b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        replace(Path::new("/dev/null"), b"three").unwrap();
    }
}
