//! Host programs: found by a checked `PATH`, and asked for their versions.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// How long a program may take to tell its version.
const VERSION: Duration = Duration::from_secs(5);

/// Where Debian and most others keep programs, for when `PATH` is short, as a service's is.
const USUAL: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/usr/libexec"];

/// The first `name` that can be run, in `folders`, then `PATH`, then the usual places. Only absolute folders count: a
/// relative one in `PATH` means whatever is in the current folder.
pub(crate) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(env::split_paths(&path)).chain(USUAL.map(PathBuf::from));
    all.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first line that `program --version` prints; `None` when it does not.
pub(crate) async fn version_line(program: &Path) -> Option<String> {
    let command = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION, command).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}

/// The first thing in `line` that reads like a version: numbers with dots between them.
pub(crate) fn version_in(line: &str) -> Option<(Vec<u32>, &str)> {
    let words = line.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words.filter(|word| word.contains('.')).find_map(|word| {
        let numbers: Result<Vec<u32>, _> = word.trim_matches('.').split('.').map(str::parse).collect();
        numbers.ok().filter(|numbers| numbers.len() > 1).map(|numbers| (numbers, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_what_programs_print() {
        let numbers = |line| version_in(line).map(|(numbers, _)| numbers);
        assert_eq!(numbers("Firecracker v1.12.1"), Some(vec![1, 12, 1]));
        assert_eq!(numbers("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some(vec![7, 2, 22]));
        assert_eq!(numbers("no version here. At all."), None);
    }

    #[test]
    fn programs_are_found_by_absolute_folders_only() {
        assert!(find("sh", &[]).unwrap().is_absolute());
        assert_eq!(find("no-such-program", &[PathBuf::from("/bin")]), None);
        assert_eq!(
            find("passwd", &[PathBuf::from("/etc")]).map(|path| path.starts_with("/etc")),
            Some(false)
        );
    }
}
