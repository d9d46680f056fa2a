//! Errors about repositories that cannot be sent, and about work that cannot be pulled.

use std::io;

use banger_api::{ApiError, ErrorKind};
use banger_workspace::{GitError, WorkspaceError};

/// Returns `error` as an API error with a hint; `vm` names the VM concerned, if there is one.
pub(super) fn told(error: WorkspaceError, vm: Option<&str>) -> ApiError {
    let kind = kind(&error);
    let message = match &error {
        WorkspaceError::Git(_) | WorkspaceError::NoFolder(_) | WorkspaceError::Path { .. } => {
            error.to_string()
        }
        WorkspaceError::Submodules(_) | WorkspaceError::Partial | WorkspaceError::Unborn => {
            format!("the repository cannot be sent: {error}")
        }
        _ => error.to_string(),
    };
    let told = ApiError::new(kind, message);
    match hint(&error, vm) {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn kind(error: &WorkspaceError) -> ErrorKind {
    match error {
        WorkspaceError::Git(GitError::Missing) => ErrorKind::MissingProgram,
        WorkspaceError::Git(GitError::TimedOut { .. }) => ErrorKind::Timeout,
        WorkspaceError::NoFolder(_) | WorkspaceError::NoRepository(_) | WorkspaceError::NoCommit(_) => {
            ErrorKind::NotFound
        }
        WorkspaceError::SomebodyElses(_) => ErrorKind::NotPermitted,
        WorkspaceError::Conflicts(_) | WorkspaceError::Another(_) => ErrorKind::AlreadyExists,
        WorkspaceError::Guest(_) | WorkspaceError::TooMuch(_) => ErrorKind::Guest,
        WorkspaceError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            ErrorKind::NotPermitted
        }
        WorkspaceError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            ErrorKind::NoSpace
        }
        WorkspaceError::Git(_)
        | WorkspaceError::Read { .. }
        | WorkspaceError::Write { .. }
        | WorkspaceError::Record { .. }
        | WorkspaceError::Sending(_) => ErrorKind::Io,
        _ => ErrorKind::Invalid,
    }
}

fn hint(error: &WorkspaceError, vm: Option<&str>) -> Option<String> {
    let vm = vm.unwrap_or("VM");
    Some(match error {
        WorkspaceError::Git(GitError::Missing) => {
            "install git, or use `--mode full-copy`, which does not need it".to_owned()
        }
        WorkspaceError::NoRepository(_) => {
            "run `git init`, or send the directory as it is with `--mode full-copy`".to_owned()
        }
        WorkspaceError::Bare(_) => {
            "clone it and send the clone, or send it as it is with `--mode full-copy`".to_owned()
        }
        WorkspaceError::Elsewhere(_) => {
            "if you trust the repository, unset core.worktree, or send the directory with `--mode full-copy`"
                .to_owned()
        }
        WorkspaceError::Submodules(_) => "`--mode full-copy` sends them too, with all other files".to_owned(),
        WorkspaceError::Partial => {
            "fetch the rest with `git fetch --refetch --no-filter`, or send local files with `--mode full-copy`"
                .to_owned()
        }
        WorkspaceError::SomebodyElses(path) => {
            format!("if you trust it: git config --global --add safe.directory {}", path.display())
        }
        WorkspaceError::Conflicts(_) => format!(
            "nothing was overwritten; save the VM's work with `banger vm workspace pull {vm}`, and commit or undo \
             it in the VM, or send to another directory with --guest-path"
        ),
        WorkspaceError::Another(_) => "send to another directory with --guest-path".to_owned(),
        WorkspaceError::Record { path, .. } => format!("move {} away to continue without it", path.display()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_says_what_helps() {
        let error = told(WorkspaceError::Submodules(vec![b"lib/a".to_vec()]), None);
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(error.message, "the repository cannot be sent: it has submodules: lib/a");
        assert!(error.hint.is_some_and(|hint| hint.contains("--mode full-copy")));
        let error = told(WorkspaceError::Conflicts(vec![b"a".to_vec()]), Some("box"));
        assert!(error.hint.is_some_and(|hint| hint.contains("pull box")), "{}", error.message);
    }
}
