//! Records what a daemon and its processes write, with strace(1), and parses it.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// The system calls that change files, names or what is on the disk.
const CALLS: &str = "openat,write,pwrite64,writev,pwritev,ftruncate,copy_file_range,sendfile,fsync,fdatasync,\
    rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir";

/// Bytes of a write that are recorded: a page of SQLite's, which it writes one by one.
const RECORDED: usize = 4096;

/// A system call that succeeded.
#[derive(Debug, PartialEq)]
pub(super) enum Call {
    /// Opens a file, which is created or emptied if these are set.
    Open {
        path: PathBuf,
        create: bool,
        truncate: bool,
    },
    /// Writes at an offset, or at the end. Not all bytes may be recorded.
    Write {
        path: PathBuf,
        offset: Option<u64>,
        length: u64,
        bytes: Vec<u8>,
    },
    /// Sets a file's length.
    Truncate {
        path: PathBuf,
        length: u64,
    },
    /// Syncs a file or directory to the disk.
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Symlink {
        target: PathBuf,
        path: PathBuf,
    },
    Mkdir {
        path: PathBuf,
    },
    /// Removes a file or directory.
    Remove {
        path: PathBuf,
    },
    /// Writes to standard output.
    Output {
        bytes: Vec<u8>,
    },
}

/// Returns the arguments of strace that record a program's calls in `trace`.
pub(super) fn arguments(trace: &Path) -> Vec<OsString> {
    let recorded = RECORDED.to_string();
    let calls = format!("trace={CALLS}");
    let words =
        ["-f", "-y", "-xx", "-qq", "--seccomp-bpf", "-s", &recorded, "-e", "signal=none", "-e", &calls, "-o"];
    words.iter().map(OsString::from).chain([trace.into()]).collect()
}

/// Parses a trace.
pub(super) fn parse(text: &str) -> Result<Vec<Call>> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (pid, line) = line.split_once(' ').with_context(|| format!("no pid: {line}"))?;
        let line = line.trim_start();
        if let Some(begin) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begin.to_owned());
            continue;
        }
        let whole = match line.strip_prefix("<... ") {
            Some(rest) => {
                let (_, end) =
                    rest.split_once(" resumed>").with_context(|| format!("not resumed: {line}"))?;
                unfinished.remove(pid).context("resumed, but not begun")? + end
            }
            None => line.to_owned(),
        };
        calls.extend(parse_call(&whole).with_context(|| whole.chars().take(200).collect::<String>())?);
    }
    Ok(calls)
}

/// Parses a call; `None` if it failed, was interrupted or changes nothing.
fn parse_call(line: &str) -> Result<Option<Call>> {
    let Some((call, result)) = line.rsplit_once(" = ") else { return Ok(None) };
    let (name, rest) = call.split_once('(').context("no arguments")?;
    let args = split(rest.trim_end().strip_suffix(')').context("no end")?);
    let arg = |at: usize| args.get(at).copied().with_context(|| format!("no argument {at}"));
    let number = |at| Ok::<u64, anyhow::Error>(arg(at)?.parse()?);
    let path = |at| quoted_path(arg(at)?);
    // Relative to a directory's descriptor.
    let path_at = |at| Ok::<_, anyhow::Error>(fd_path(arg(at)?)?.unwrap_or_default().join(path(at + 1)?));
    // `?` has no result: the kernel restarts the call, which is then recorded again, or the process was killed in it.
    if result.starts_with(['-', '?']) {
        return Ok(None);
    }
    let length = || result.split(['<', ' ']).next().unwrap_or_default().parse::<u64>();
    let write = |at: Option<u64>, bytes| {
        if arg(0)?.starts_with("1<") && fd_path(arg(0)?)?.is_none() {
            return Ok(Some(Call::Output { bytes }));
        }
        let Some(path) = fd_path(arg(0)?)? else { return Ok(None) };
        Ok(Some(Call::Write { path, offset: at, length: length()?, bytes }))
    };
    Ok(Some(match name {
        "openat" => {
            let flags = arg(2)?;
            let [create, truncate] =
                ["O_CREAT", "O_TRUNC"].map(|flag| flags.split('|').any(|set| set == flag));
            Call::Open { path: path_at(0)?, create, truncate }
        }
        "write" => return write(None, quoted(arg(1)?)?),
        "pwrite64" => return write(Some(number(3)?), quoted(arg(1)?)?),
        "writev" => return write(None, Vec::new()),
        "pwritev" => return write(Some(number(3)?), Vec::new()),
        // The target's position is that of its descriptor: the end, in all programs here.
        "copy_file_range" | "sendfile" => {
            let Some(path) = fd_path(arg(if name == "sendfile" { 0 } else { 2 })?)? else { return Ok(None) };
            Call::Write { path, offset: None, length: length()?, bytes: Vec::new() }
        }
        "ftruncate" => match fd_path(arg(0)?)? {
            Some(path) => Call::Truncate { path, length: number(1)? },
            None => return Ok(None),
        },
        "fsync" | "fdatasync" => match fd_path(arg(0)?)? {
            Some(path) => Call::Sync { path },
            None => return Ok(None),
        },
        "rename" => Call::Rename { from: path(0)?, to: path(1)? },
        "renameat" | "renameat2" => Call::Rename { from: path_at(0)?, to: path_at(2)? },
        "link" => Call::Link { from: path(0)?, to: path(1)? },
        "linkat" => Call::Link { from: path_at(0)?, to: path_at(2)? },
        "symlink" => Call::Symlink { target: path(0)?, path: path(1)? },
        "symlinkat" => Call::Symlink { target: path(0)?, path: path_at(1)? },
        "mkdir" => Call::Mkdir { path: path(0)? },
        "mkdirat" => Call::Mkdir { path: path_at(0)? },
        "unlink" | "rmdir" => Call::Remove { path: path(0)? },
        "unlinkat" => Call::Remove { path: path_at(0)? },
        other => bail!("unknown call {other}"),
    }))
}

/// Splits arguments at commas, except within brackets. Strings have no commas: all their characters are escaped.
fn split(args: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let outside = |c: char| {
        depth += i32::from("[{".contains(c)) - i32::from("]}".contains(c));
        c == ',' && depth == 0
    };
    args.split(outside).map(str::trim).collect()
}

/// Returns the bytes of an escaped string: `"\x2f\x61"`, with dots after it if it is cut off.
fn quoted(arg: &str) -> Result<Vec<u8>> {
    let escaped = arg.trim_end_matches('.').trim_matches('"');
    let bytes = escaped.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits, 16));
    bytes.collect::<Result<_, _>>().with_context(|| format!("not escaped: {escaped:?}"))
}

fn quoted_path(arg: &str) -> Result<PathBuf> {
    Ok(OsString::from_vec(quoted(arg)?).into())
}

/// Returns the path of a descriptor: `7<\x2f\x61>`. `None` for pipes and sockets.
fn fd_path(arg: &str) -> Result<Option<PathBuf>> {
    let Some((_, path)) = arg.split_once('<') else { return Ok(None) };
    let path = quoted_path(path.trim_end_matches("(deleted)").trim_end_matches('>'))?;
    Ok(path.is_absolute().then_some(path))
}

/// Checks that calls without a result change nothing, as when the kernel restarts a write that found a lock taken.
pub(super) fn restarted_calls_change_nothing() -> Result<()> {
    let write = r#"7 write(6<\x2f\x61>, "\x31", 1) = "#;
    let trace = format!("{write}? ERESTARTNOINTR (To be restarted)\n{write}-1 EAGAIN\n{write}1\n");
    let written = Call::Write { path: "/a".into(), offset: None, length: 1, bytes: b"1".to_vec() };
    let calls = parse(&trace)?;
    ensure!(calls == [written], "{calls:?}");
    Ok(())
}
