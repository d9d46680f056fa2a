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
pub(crate) fn permitted_files(config: &Config, state: &Path, ui: &Ui) -> Result<Vec<FileSync>, CommandError> {
    let Some(project) = config.project().filter(|project| !project.file_sync.is_empty()) else {
        return Ok(Vec::new());
    };
    let consent = Consent::for_project(project, state)?;
    let allowed = match config.project_file_sync() {
        ProjectFiles::Always => true,
        ProjectFiles::Never => false,
        ProjectFiles::Ask => consent.is_granted() || ask_user(project, &consent, ui)?,
    };
    Ok(if allowed { project.file_sync.clone() } else { Vec::new() })
}

fn ask_user(project: &Project, consent: &Consent, ui: &Ui) -> Result<bool, CommandError> {
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
    ui.notes(file_sync::table(&project.file_sync));
    if !ui.ask("Send them?")? {
        ui.note("the files were not sent");
        return Ok(false);
    }
    if let Err(error) = consent.grant() {
        ui.warning(format_args!("banger will ask again: cannot write {}: {error}", consent.path.display()));
    }
    Ok(true)
}

/// The user's permission to send files; its file exists once the user has agreed.
#[derive(Debug)]
struct Consent {
    path: PathBuf,
    content: Vec<u8>,
}

impl Consent {
    /// Returns the permission for exactly the files that `project` requests, at the project's path.
    fn for_project(project: &Project, state: &Path) -> io::Result<Self> {
        let content = serde_json::to_vec(&(project.file.as_os_str().as_bytes(), &project.file_sync))?;
        let name: String =
            digest(&SHA256, &content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: state.join("project-files").join(name), content })
    }

    fn is_granted(&self) -> bool {
        self.path.exists()
    }

    fn grant(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&self.path, &self.content)
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
    fn consent_applies_only_to_the_same_project_and_files() {
        let state = tempfile::tempdir().unwrap();
        let consent = |project: &Project| Consent::for_project(project, state.path()).unwrap();
        let requested = project("/a/banger.toml", &["~/x"]);
        assert!(!consent(&requested).is_granted());
        consent(&requested).grant().unwrap();
        assert!(consent(&requested).is_granted());
        let mut other_mode = requested.clone();
        other_mode.file_sync[0].mode = Some(0o644);
        for other in [
            project("/b/banger.toml", &["~/x"]),
            project("/a/banger.toml", &["~/y"]),
            project("/a/banger.toml", &["~/x", "~/y"]),
            project("/a/banger.toml", &[]),
            other_mode,
        ] {
            assert!(!consent(&other).is_granted(), "{other:?}");
        }
    }
}
