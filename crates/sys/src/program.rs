//! Finds programs of the host.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Usual program directories, for a short `PATH` such as a service's.
const USUAL_DIRS: [&str; 7] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec"];

/// Returns the first executable `name` in `PATH` and the usual directories. Only absolute directories count, because a
/// relative one depends on the current directory.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_program_in(name, env::split_paths(&path).chain(USUAL_DIRS.map(PathBuf::from)))
}

/// Returns the first executable `name` in these directories, of which only absolute ones count.
pub fn find_program_in(name: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let absolute = dirs.into_iter().filter(|dir| dir.is_absolute());
    absolute.map(|dir| dir.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_executable_files_in_absolute_directories() {
        assert!(find_program("sh").unwrap().is_absolute());
        assert_eq!(find_program("no-such-program"), None);
        let dirs = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(find_program_in("sh", dirs(&["bin", "/bin"])), Some("/bin/sh".into()));
        assert_eq!(find_program_in("sh", dirs(&[])), None);
        // A directory, and a file that is not executable.
        assert_eq!(find_program_in("bin", dirs(&["/"])), None);
        assert_eq!(find_program_in("passwd", dirs(&["/etc"])), None);
    }
}
