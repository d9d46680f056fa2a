//! Builds test programs, and runs several at a time.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{StatVfsMountFlags, XattrFlags, setxattr, statvfs};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{cargo, output},
    programs::TEST_FEATURES,
    project::Project,
};

/// Number of programs that run at a time: each waits for a part of its time, and cargo builds beside them.
const AT_A_TIME: usize = 2;

/// The file system in memory.
const MEMORY: &str = "/dev/shm";

/// Free memory that it must have for the tests' files, in bytes: many times the 250 MiB that they take together.
const MIN_MEMORY: u64 = 4 << 30;

/// Start of the name of a run's directory in memory. Short, since paths of sockets are.
const PREFIX: &str = "banger-t";

/// Name of the file in it that the run locks.
const LOCK: &str = "lock";

/// A program of tests that cargo has built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestProgram {
    pub(crate) path: PathBuf,
    /// Its main file, below the project's root.
    source: PathBuf,
    /// The directory of its package, in which cargo runs tests.
    package: PathBuf,
}

/// How a program ended.
struct Finished {
    status: ExitStatus,
    duration: Duration,
    /// Its standard output and standard error, in order.
    output: Vec<u8>,
}

/// Compiles the test programs of the workspace that cargo's options `selection` name.
pub(crate) fn build(project: &Project, selection: &[&str]) -> Result<Vec<TestProgram>> {
    let options = ["test", "--workspace", "--features", TEST_FEATURES, "--no-run"];
    let mut cargo = cargo(project, &[&options[..], selection].concat());
    let messages = String::from_utf8(output(cargo.arg("--message-format=json-render-diagnostics"))?)?;
    let programs = programs_in(&messages, project.root())?;
    ensure!(!programs.is_empty(), "cargo has built no tests");
    Ok(programs)
}

/// Returns the test programs in cargo's messages.
fn programs_in(messages: &str, root: &Path) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let (true, Some(path)) = (message["profile"]["test"] == true, message["executable"].as_str()) else {
            continue;
        };
        let text = |value: &Value| value.as_str().map(PathBuf::from).context("cargo's messages lack a path");
        let source = text(&message["target"]["src_path"])?;
        programs.push(TestProgram {
            path: path.into(),
            source: source.strip_prefix(root).unwrap_or(&source).to_path_buf(),
            package: text(&message["manifest_path"])?.parent().context("manifest_path")?.to_path_buf(),
        });
    }
    Ok(programs)
}

/// Returns the programs in the order in which they start: the largest first, since most of those take longest, and the
/// last would run alone.
fn in_order(programs: &[TestProgram]) -> VecDeque<&TestProgram> {
    let mut programs: Vec<_> = programs.iter().collect();
    programs.sort_by_key(|program| Reverse(fs::metadata(&program.path).map_or(0, |meta| meta.len())));
    programs.into()
}

/// Runs all programs with temporary directories in memory: tests with many small files take half of the processor time
/// there that they take on a disk, and wait for none. Fails at the end if any has failed.
pub(crate) fn run(project: &Project, programs: &[TestProgram]) -> Result<()> {
    let memory = MemoryDir::create()?;
    run_in(memory.as_ref().map(|memory| memory.dir.path()), &library_path(project)?, programs)
}

/// Runs all programs with temporary directories in `temp`, and prints the output of each when it has ended.
fn run_in(temp: Option<&Path>, libraries: &OsStr, programs: &[TestProgram]) -> Result<()> {
    let queue = Mutex::new(in_order(programs));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let (sender, results) = mpsc::channel();
    let mut failed = Vec::new();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(program) = next() {
                    println!("     Running {}", program.source.display());
                    // The receiver lives until the last sender is dropped.
                    let _ = sender.send((program, run_one(program, libraries, temp)));
                }
            });
        }
        drop(sender);
        for (program, result) in results {
            let source = program.source.display();
            match result {
                Ok(Finished { status, duration, output }) => {
                    println!("    Finished {source} in {:.1} s: {status}", duration.as_secs_f64());
                    // Without standard output, there is still the list of failures.
                    let _ = io::stdout().write_all(&output);
                    if !status.success() {
                        failed.push(format!("{source}: {status}"));
                    }
                }
                Err(error) => failed.push(format!("{source}: {error:#}")),
            }
        }
    });
    println!("test programs run: {}", programs.len());
    if !failed.is_empty() {
        bail!("{} of {} test programs failed:\n  {}", failed.len(), programs.len(), failed.join("\n  "));
    }
    Ok(())
}

/// Runs a program as cargo does, to its end.
fn run_one(program: &TestProgram, libraries: &OsStr, temp: Option<&Path>) -> Result<Finished> {
    let start = Instant::now();
    // No pipe: a process that a test leaves behind would keep it open.
    let mut file = tempfile::tempfile()?;
    let mut command = Command::new(&program.path);
    command.current_dir(&program.package).stdin(Stdio::null());
    command.stdout(file.try_clone()?).stderr(file.try_clone()?);
    for (name, _) in env::vars_os() {
        if is_of_package(&name) {
            command.env_remove(name);
        }
    }
    command.env("CARGO_MANIFEST_DIR", &program.package).env("LD_LIBRARY_PATH", libraries);
    command.envs(temp.map(|temp| ("TMPDIR", temp)));
    let status = command.status().with_context(|| format!("cannot start {}", program.path.display()))?;
    let mut output = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut output)?;
    Ok(Finished { status, duration: start.elapsed(), output })
}

/// Returns whether cargo sets a variable for each package: here it has xtask's value, and no test reads it.
fn is_of_package(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name == b"CARGO_MANIFEST_PATH"
}

/// A directory in memory for the tests' files, which is removed when this is dropped.
struct MemoryDir {
    dir: TempDir,
    /// Locked, so that a later run does not take the directory for that of a killed run.
    _lock: File,
}

impl MemoryDir {
    /// Creates the directory. Returns `None` if there is little memory, or if files in it lack what files on a disk have.
    fn create() -> Result<Option<Self>> {
        let Ok(stat) = statvfs(MEMORY) else { return Ok(None) };
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        if available < MIN_MEMORY || stat.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Ok(None);
        }
        remove_abandoned(Path::new(MEMORY))?;
        let mut builder = tempfile::Builder::new();
        // Some tests run as other users.
        builder.prefix(PREFIX).permissions(fs::Permissions::from_mode(0o755));
        let dir = builder.tempdir_in(MEMORY)?;
        let lock = File::create(dir.path().join(LOCK))?;
        lock.lock()?;
        // Kernels before 6.6 have no such attributes of files in memory.
        let has_attributes = setxattr(dir.path(), "user.banger", b"1", XattrFlags::empty()).is_ok();
        Ok(has_attributes.then_some(Self { dir, _lock: lock }))
    }
}

/// Removes the directories in `memory` of runs that were killed.
fn remove_abandoned(memory: &Path) -> Result<()> {
    for entry in fs::read_dir(memory)? {
        let entry = entry?;
        let is_run = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        // Another user's cannot be opened for writing.
        let lock = File::options().write(true).open(entry.path().join(LOCK));
        if is_run && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Returns a value of LD_LIBRARY_PATH with the directory of the standard library, which tests of macros load.
fn library_path(project: &Project) -> Result<OsString> {
    let mut rustc = Command::new("rustc");
    let dir = output(rustc.args(["--print", "target-libdir"]).current_dir(project.root()))?;
    let dir = PathBuf::from(String::from_utf8(dir)?.trim_end());
    let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let others = env::split_paths(&inherited).filter(|path| !path.as_os_str().is_empty());
    Ok(env::join_paths([dir].into_iter().chain(others))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = concat!(
        r#"{"reason":"compiler-artifact","manifest_path":"/p/a/Cargo.toml","target":{"src_path":"/p/a/src/lib.rs"},"#,
        r#""profile":{"test":false},"executable":null}"#,
        "\n",
        r#"{"reason":"build-script-executed","package_id":"a"}"#,
        "\n",
        r#"{"reason":"compiler-artifact","manifest_path":"/p/a/Cargo.toml","target":{"src_path":"/p/a/src/main.rs"},"#,
        r#""profile":{"test":false},"executable":"/t/a"}"#,
        "\n",
        r#"{"reason":"compiler-artifact","manifest_path":"/p/a/Cargo.toml","target":{"src_path":"/p/a/tests/b.rs"},"#,
        r#""profile":{"test":true},"executable":"/t/b-1"}"#,
        "\n",
        r#"{"reason":"build-finished","success":true}"#,
    );

    /// Creates a program. Not in this process: another thread's child would inherit the file, open for writing, which
    /// the kernel does not run.
    fn script(dir: &Path, name: &str, script: &str) -> TestProgram {
        let path = dir.join(name);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\""])
            .arg(&path)
            .arg(script);
        output(&mut shell).unwrap();
        TestProgram { path, source: name.into(), package: dir.into() }
    }

    #[test]
    fn programs_with_tests_are_found_in_cargos_messages() {
        let program =
            TestProgram { path: "/t/b-1".into(), source: "a/tests/b.rs".into(), package: "/p/a".into() };
        assert_eq!(programs_in(MESSAGES, Path::new("/p")).unwrap(), [program]);
    }

    #[test]
    fn the_largest_program_starts_first() {
        let dir = tempfile::tempdir().unwrap();
        let programs = ["exit 0", "exit 0 # large", "exit 0 # "]
            .map(|text| script(dir.path(), &text.len().to_string(), text));
        let sources: Vec<_> =
            in_order(&programs).into_iter().map(|program| program.source.to_str().unwrap()).collect();
        assert_eq!(sources, ["14", "9", "6"]);
    }

    #[test]
    fn a_program_runs_in_its_package_with_both_streams_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "echo one; echo two >&2; echo $CARGO_MANIFEST_DIR; pwd; echo \"$CARGO_PKG_NAME$TMPDIR\"; exit 3";
        let program = script(dir.path(), "program", text);
        let Finished { status, output, .. } =
            run_one(&program, OsStr::new(""), Some(Path::new("/t"))).unwrap();
        let package = dir.path().display();
        assert_eq!(String::from_utf8(output).unwrap(), format!("one\ntwo\n{package}\n{package}\n/t\n"));
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn every_program_runs_and_all_failed_ones_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let mut programs: Vec<_> = (0..6)
            .map(|number| {
                script(dir.path(), &format!("p{number}"), &format!("touch ran-{number}; exit {}", number % 2))
            })
            .collect();
        programs.push(TestProgram {
            path: dir.path().join("none"),
            source: "none".into(),
            package: dir.path().into(),
        });
        let error = run_in(None, OsStr::new(""), &programs).unwrap_err().to_string();
        assert!((0..6).all(|number| dir.path().join(format!("ran-{number}")).exists()), "{error}");
        assert!(error.starts_with("4 of 7 test programs failed:"), "{error}");
        for failed in ["p1: exit status: 1", "p3: exit status: 1", "p5: exit status: 1", "none: cannot start"]
        {
            assert!(error.contains(failed), "{error}");
        }
    }

    #[test]
    fn only_directories_of_killed_runs_are_removed() {
        let memory = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let dir = memory.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&dir).unwrap();
            File::create(dir.join(LOCK)).unwrap()
        };
        let running = create("running");
        running.lock().unwrap();
        drop(create("killed"));
        fs::create_dir(memory.path().join("other")).unwrap();
        fs::write(memory.path().join("other").join(LOCK), "").unwrap();
        remove_abandoned(memory.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(memory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [format!("{PREFIX}running"), "other".to_owned()].map(OsString::from));
    }
}
