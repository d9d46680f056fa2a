//! Selects a user's shell.

use std::path::Path;

use banger_proto::FailureKind;

use crate::{failure::Failure, programs::is_program, users::User};

/// Shells that replace a missing one, the best first.
const SHELLS: [&str; 6] = ["bash", "zsh", "ash", "dash", "sh", "busybox"];

/// Shells that refuse logins. They are not used: the client controls the whole VM anyway.
const NO_LOGIN: [&str; 2] = ["nologin", "false"];

/// An existing shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shell {
    pub(super) path: String,
    /// Name to run it by; a busybox depends on it.
    pub(super) name: String,
}

/// Returns the shell of `user`, or else the best in the directories of `path`.
pub(super) fn find(user: &User, path: &str) -> Result<Shell, Failure> {
    let name = |shell: &str| Path::new(shell).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own_name = name(&user.shell);
    if !NO_LOGIN.contains(&own_name.as_str()) && is_program(&user.shell) {
        return Ok(Shell { path: user.shell.clone(), name: own_name });
    }
    let dirs = || path.split(':').filter(|dir| !dir.is_empty());
    let all = SHELLS.iter().flat_map(|shell| dirs().map(move |dir| format!("{dir}/{shell}")));
    let shell = all.into_iter().find(|path| is_program(path));
    let shell = shell.map(|path| match name(&path).as_str() {
        "busybox" => Shell { path, name: "sh".to_owned() },
        name => Shell { name: name.to_owned(), path },
    });
    shell.ok_or_else(|| {
        let why = format!(
            "the image has no shell: there is neither {} nor any of {} in {path}",
            user.shell,
            SHELLS.join(", ")
        );
        Failure::new(FailureKind::NotFound, why)
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_best_shell_replaces_a_missing_or_nologin_shell() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        let path = format!("{}::{}", one.display(), two.display());
        let user = |shell: String| User {
            name: "dev".into(),
            uid: 1000,
            gid: 1000,
            groups: Vec::new(),
            home: "/".into(),
            shell,
        };
        let put = |dir: &Path, name: &str| {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join(name), "").unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            dir.join(name).display().to_string()
        };
        let missing = || user("/no/fish".to_owned());
        let error = format!("{:?}", find(&missing(), &path).unwrap_err());
        assert!(error.contains("neither /no/fish nor any of bash, zsh") && error.contains(&path), "{error}");

        let busybox = put(&two, "busybox");
        assert_eq!(find(&missing(), &path).unwrap(), Shell { path: busybox, name: "sh".into() });
        put(&one, "sh");
        let bash = put(&two, "bash");
        assert_eq!(find(&missing(), &path).unwrap(), Shell { path: bash.clone(), name: "bash".into() });
        let nologin = put(&one, "nologin");
        assert_eq!(find(&user(nologin), &path).unwrap().path, bash);
        let fish = put(&one, "fish");
        assert_eq!(find(&user(fish.clone()), &path).unwrap(), Shell { path: fish, name: "fish".into() });
    }
}
