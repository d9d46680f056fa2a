//! Errors about repositories that cannot be sent, and about work that cannot be pulled.

use std::io;

use banger_api::{ApiError, ErrorKind, GuestText};
use banger_workspace::{GitError, WorkspaceError};

/// Returns `error` as an API error with a hint; `vm` names the VM concerned, if there is one.
pub(super) fn to_api_error(error: WorkspaceError, vm: Option<&str>) -> ApiError {
    let kind = kind(&error);
    let message = match &error {
        WorkspaceError::Git(_) | WorkspaceError::NoDirectory(_) | WorkspaceError::Path { .. } => {
            error.to_string()
        }
        WorkspaceError::Submodules(_) | WorkspaceError::PartialClone | WorkspaceError::Unborn => {
            format!("the repository cannot be sent: {error}")
        }
        _ => error.to_string(),
    };
    let api_error = match guest_words(&error) {
        Some((failure, words)) => {
            let error = ApiError::from_guest(kind, &GuestText::new(words));
            ApiError { message: format!("{failure}: {}", error.message), ..error }
        }
        None => ApiError::new(kind, message),
    };
    match hint(&error, vm) {
        Some(hint) => api_error.hint(hint),
        None => api_error,
    }
}

/// Returns the failure of which `error` has the guest's words, and these.
fn guest_words(error: &WorkspaceError) -> Option<(String, &str)> {
    match error {
        // A fetch talks to the guest, whose git writes to the same standard error.
        WorkspaceError::Git(GitError::Failed { what, stderr }) if what == "fetch" => {
            Some(("git fetch failed".to_owned(), stderr))
        }
        WorkspaceError::GuestGit { command, stderr } => {
            Some((format!("git {command} failed in the VM"), stderr))
        }
        WorkspaceError::NoGuestGit(words) => {
            Some(("the VM's commits can only be read by its git, which does not run".to_owned(), words))
        }
        _ => None,
    }
}

fn kind(error: &WorkspaceError) -> ErrorKind {
    match error {
        WorkspaceError::Git(GitError::Missing | GitError::TooOld { .. }) => ErrorKind::MissingProgram,
        WorkspaceError::Git(GitError::TimedOut { .. }) => ErrorKind::Timeout,
        WorkspaceError::Git(GitError::Cancelled { .. }) => ErrorKind::Cancelled,
        WorkspaceError::NoDirectory(_) | WorkspaceError::NoRepository(_) | WorkspaceError::NoCommit(_) => {
            ErrorKind::NotFound
        }
        WorkspaceError::UntrustedOwner(_) => ErrorKind::NotPermitted,
        WorkspaceError::Conflicts(_) | WorkspaceError::OtherRepository(_) => ErrorKind::AlreadyExists,
        WorkspaceError::GuestData(_)
        | WorkspaceError::TooLarge { .. }
        | WorkspaceError::Grown(_)
        | WorkspaceError::NoGuestGit(_)
        | WorkspaceError::GuestGit { .. }
        | WorkspaceError::Incomplete(_)
        | WorkspaceError::Unreadable(_) => ErrorKind::Guest,
        WorkspaceError::NoSpace { .. } => ErrorKind::NoSpace,
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
        | WorkspaceError::Transfer(_) => ErrorKind::Io,
        _ => ErrorKind::Invalid,
    }
}

fn hint(error: &WorkspaceError, vm: Option<&str>) -> Option<String> {
    let vm = vm.unwrap_or("VM");
    Some(match error {
        WorkspaceError::Git(GitError::Missing) => {
            "install git, or use `--mode full-copy`, which does not need it".to_owned()
        }
        WorkspaceError::Git(GitError::TooOld { .. }) => {
            "upgrade git, or use `--mode full-copy`, which does not need it".to_owned()
        }
        WorkspaceError::NoRepository(_) => {
            "run `git init`, or send the directory as it is with `--mode full-copy`".to_owned()
        }
        WorkspaceError::Bare(_) => {
            "clone it and send the clone, or send it as it is with `--mode full-copy`".to_owned()
        }
        WorkspaceError::ForeignWorkTree(_) => {
            "if you trust the repository, unset core.worktree, or send the directory with `--mode full-copy`"
                .to_owned()
        }
        WorkspaceError::Foreign { .. } => {
            "if git moved or copied it, try `git worktree repair`; else replace it by what it leads to, or send the \
             directory with `--mode full-copy`"
                .to_owned()
        }
        WorkspaceError::Submodules(_) => "`--mode full-copy` sends them too, with all other files".to_owned(),
        WorkspaceError::PartialClone => {
            "clone it again without `--filter`, or send the local files with `--mode full-copy`"
                .to_owned()
        }
        WorkspaceError::UntrustedOwner(path) => {
            format!("if you trust it: git config --global --add safe.directory {}", path.display())
        }
        WorkspaceError::Conflicts(_) => format!(
            "nothing was overwritten; save the VM's work with `banger vm workspace pull {vm}`, and commit or undo \
             it in the VM, or send to another directory with --guest-path"
        ),
        WorkspaceError::OtherRepository(_) => "send to another directory with --guest-path".to_owned(),
        WorkspaceError::Grown(_) => "try again, or end the program that writes to it".to_owned(),
        WorkspaceError::TooLarge { .. } => format!(
            "delete what is not needed in the VM, or copy the rest out by hand with `banger vm cp {vm}:PATH .`"
        ),
        WorkspaceError::NoSpace { .. } => "free some space, or move the repository to a larger disk".to_owned(),
        WorkspaceError::NoGuestGit(_) => {
            format!("install git in the VM, or copy the repository out with `banger vm cp {vm}:PATH .`")
        }
        WorkspaceError::Incomplete(_) => {
            "if history is missing in the VM, run `git fetch --unshallow` there".to_owned()
        }
        WorkspaceError::Unreadable(_) => {
            format!("copy them out with `banger vm cp {vm}:PATH .`, push them with `git lfs push`, or delete them")
        }
        WorkspaceError::Record { path, .. } => format!("move {} away to continue without it", path.display()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_guests_git_are_marked() {
        let git =
            |what: &str| GitError::Failed { what: what.into(), stderr: "fatal: \x1b[2J\nhint: run".into() };
        let error = to_api_error(git("fetch").into(), Some("box"));
        assert_eq!(error.message, "git fetch failed: the guest reports: fatal: ^[[2J hint: run");
        assert_eq!((error.kind, error.from_guest), (ErrorKind::Io, true));
        let (command, stderr) = ("rev-list".to_owned(), "fatal:\x1b bad".to_owned());
        let error = to_api_error(WorkspaceError::GuestGit { command, stderr }, Some("box"));
        assert_eq!(error.message, "git rev-list failed in the VM: the guest reports: fatal:^[ bad");
        let error = to_api_error(WorkspaceError::NoGuestGit("no\x1b".to_owned()), Some("box"));
        assert!(error.message.ends_with("does not run: the guest reports: no^["), "{}", error.message);
        assert!(error.from_guest && error.hint.is_some());
        assert_eq!(to_api_error(git("diff").into(), None).message, "git diff failed: fatal: ^[[2J hint: run");
    }

    #[test]
    fn unsendable_repositories_produce_a_hint() {
        let error = to_api_error(WorkspaceError::Submodules(vec![b"lib/a".to_vec()]), None);
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(error.message, "the repository cannot be sent: it has submodules: lib/a");
        assert!(error.hint.is_some_and(|hint| hint.contains("--mode full-copy")));
        let error = to_api_error(WorkspaceError::PartialClone, None);
        assert!(error.hint.is_some_and(|hint| hint.contains("without `--filter`")));
        let old = GitError::TooOld { version: "2.30.2".to_owned(), minimum: "2.32" };
        let error = to_api_error(old.into(), None);
        assert_eq!(error.message, "git 2.30.2 is too old; banger needs git 2.32 or later");
        assert!(
            error.kind == ErrorKind::MissingProgram
                && error.hint.is_some_and(|hint| hint.contains("upgrade"))
        );
        let error = to_api_error(WorkspaceError::Conflicts(vec![b"a".to_vec()]), Some("box"));
        assert!(error.hint.is_some_and(|hint| hint.contains("pull box")), "{}", error.message);
    }
}
