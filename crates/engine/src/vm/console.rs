//! The guest's console: a pipe from the VMM, kept by a process of its own so that it is written while the daemon is
//! away, in two files that together never hold more than [`CONSOLE_MAX`].

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Most bytes kept of a console: enough for many boots, and less than a guest can hurt with.
pub const CONSOLE_MAX: u64 = 2 << 20;

/// Most characters of a console line that are put into an error.
const LINE_MAX: usize = 400;

/// How far from the end a panic's reason is looked for.
const PANIC_WITHIN: usize = 100;

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Copies standard input to `path` until it ends: the whole of the process `bangerd console PATH`. When the file is
/// half of [`CONSOLE_MAX`], it becomes the older one of the two.
///
/// # Errors
/// When the file cannot be written.
pub fn console_main(path: &Path) -> io::Result<()> {
    copy(&mut io::stdin().lock(), path, CONSOLE_MAX / 2)
}

fn copy(input: &mut impl Read, path: &Path, half: u64) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut file = append(path)?;
    let mut size = file.metadata()?.len();
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = buffer.get(..count).unwrap_or_default();
        if size + part.len() as u64 > half {
            fs::rename(path, older(path))?;
            file = append(path)?;
            size = 0;
        }
        // A full disk must not stop the guest: what cannot be kept is lost.
        if file.write_all(part).is_ok() {
            size += part.len() as u64;
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// All that is kept of the console at `path`; nothing when there has been none.
///
/// # Errors
/// When a file is there and cannot be read.
pub(crate) fn read_console(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for file in [older(path).as_path(), path] {
        match File::open(file) {
            Ok(file) => {
                file.take(CONSOLE_MAX).read_to_end(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// The last `count` lines of the console at `path` that say anything, without control characters; after a panic of the
/// kernel, those from its reason on, which a trace of its stack would crowd out.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = read_console(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).take(LINE_MAX).collect::<String>();
    let mut lines: Vec<_> =
        text.lines().rev().map(clean).filter(|line| !line.trim().is_empty()).take(PANIC_WITHIN).collect();
    lines.reverse();
    let panic = lines.iter().position(|line| line.contains("Kernel panic"));
    let from = panic.unwrap_or_else(|| lines.len().saturating_sub(count));
    lines.drain(..from);
    lines.truncate(count);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_never_grows_over_its_limit_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let text: Vec<u8> = (0..5000).flat_map(|n| format!("line {n}\r\n").into_bytes()).collect();
        copy(&mut text.as_slice(), &path, 20_000).unwrap();
        let total: u64 =
            fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 40_000, "{total}");
        assert_eq!(last_lines(&path, 2), ["line 4998", "line 4999"]);
    }

    #[test]
    fn what_is_shown_of_a_console_has_no_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        copy(&mut &b"\x1b[2Jone\r\n\r\n\x07two"[..], &path, 1000).unwrap();
        assert_eq!(last_lines(&path, 5), ["[2Jone", "two"]);
        assert!(last_lines(Path::new("/nonexistent"), 5).is_empty());
    }

    #[test]
    fn a_panic_is_shown_from_its_reason_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        copy(&mut &b"up\nKernel panic - not syncing: why\na\nb\nc\nd\n"[..], &path, 1000).unwrap();
        assert_eq!(last_lines(&path, 3), ["Kernel panic - not syncing: why", "a", "b"]);
    }
}
