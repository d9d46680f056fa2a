//! The user's permission to send the files that a project requests, valid for exactly those files.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use banger_api::{
    Config, ProjectFiles,
    config::{FileSync, PROJECT_FILE, Project},
};
use ring::digest::{SHA256, digest};

use crate::{error::CommandError, file_sync, ui::Ui};

/// Returns the files that the project of `config` requests and the user permits; stores the permission in `state`.
pub(crate) fn files(config: &Config, state: &Path, ui: &Ui) -> Result<Vec<FileSync>, CommandError> {
    let Some(project) = config.project().filter(|project| !project.file_sync.is_empty()) else {
        return Ok(Vec::new());
    };
    let agreement = Agreement::about(project, state)?;
    let may = match config.project_file_sync() {
        ProjectFiles::Always => true,
        ProjectFiles::Never => false,
        ProjectFiles::Ask => agreement.is_kept() || agreed(project, &agreement, ui)?,
    };
    Ok(if may { project.file_sync.clone() } else { Vec::new() })
}

fn agreed(project: &Project, agreement: &Agreement, ui: &Ui) -> Result<bool, CommandError> {
    let root = project.file.parent().unwrap_or(&project.file).display();
    if !ui.can_ask() {
        let hosts: Vec<_> = project.file_sync.iter().map(|entry| format!("{:?}", entry.host)).collect();
        ui.warning(format_args!(
            "{PROJECT_FILE} of {root} requests your files, which were not sent: {}; \
             BANGER_PROJECT_FILE_SYNC=always sends them, and =never hides this warning",
            hosts.join(", ")
        ));
        return Ok(false);
    }
    ui.note(format_args!("{PROJECT_FILE} of {root} requests your files in its VM:"));
    ui.note(file_sync::table(&project.file_sync));
    if !ui.ask("Send them?")? {
        ui.note("the files were not sent");
        return Ok(false);
    }
    if let Err(error) = agreement.keep() {
        ui.warning(format_args!("banger will ask again: cannot write {}: {error}", agreement.path.display()));
    }
    Ok(true)
}

/// The user's permission to send files; its file exists once the user has agreed.
#[derive(Debug)]
struct Agreement {
    path: PathBuf,
    about: Vec<u8>,
}

impl Agreement {
    /// Returns the permission for exactly the files that `project` requests, at the project's path.
    fn about(project: &Project, state: &Path) -> io::Result<Self> {
        let about = serde_json::to_vec(&(project.file.as_os_str().as_bytes(), &project.file_sync))?;
        let name: String =
            digest(&SHA256, &about).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: state.join("project-files").join(name), about })
    }

    fn is_kept(&self) -> bool {
        self.path.exists()
    }

    fn keep(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&self.path, &self.about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(file: &str, hosts: &[&str]) -> Project {
        let entry = |host: &&str| FileSync { host: (*host).into(), guest: "x".into(), mode: None };
        Project { file: file.into(), file_sync: hosts.iter().map(entry).collect(), ..Project::default() }
    }

    #[test]
    fn what_is_agreed_to_is_exactly_that() {
        let state = tempfile::tempdir().unwrap();
        let about = |project: &Project| Agreement::about(project, state.path()).unwrap();
        let asked = project("/a/banger.toml", &["~/x"]);
        assert!(!about(&asked).is_kept());
        about(&asked).keep().unwrap();
        assert!(about(&asked).is_kept());
        let mut other_mode = asked.clone();
        other_mode.file_sync[0].mode = Some(0o644);
        for other in [
            project("/b/banger.toml", &["~/x"]),
            project("/a/banger.toml", &["~/y"]),
            project("/a/banger.toml", &["~/x", "~/y"]),
            project("/a/banger.toml", &[]),
            other_mode,
        ] {
            assert!(!about(&other).is_kept(), "{other:?}");
        }
    }
}
