//! Measures `vm workspace` with a large repository against a bare stream, git, tar and `vm exec`.

use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    measure::{compare, print_comparison, print_share, timed},
    stage::Stage,
};
use crate::command::{check, output, say};

/// Goals: a minimum share of the stream's rate, and maximum ratios to the other command's time.
const RATE_GOAL: f64 = 0.8;
const CLONE_GOAL: f64 = 1.0 / 3.0;
const AGAIN_GOAL: f64 = 0.1;
const EXPORT_GOAL: f64 = 2.0;
const SMALL_GOAL: f64 = 1.3;

/// Maximum ratios to the same work in the guest, which is a lower bound however slow the guest is.
const TAR_GOAL: f64 = 1.0;
const EXPORT_GUEST_GOAL: f64 = 2.0;

/// Size of the repository: number of files, and bytes of words in each.
const FILES: usize = 100_000;
const BYTES: usize = 10_000;

/// Files edited before the first `prepare` (and again in the VM), and before the second.
const FIRST_EDITS: usize = 100;
const SECOND_EDITS: usize = 10;

const NAME: &str = "workspace";

pub(super) fn workspace(stage: &Stage, runs: usize) -> Result<()> {
    let large = repository(&stage.dir().join("large"), FILES)?;
    edit(&large, 0..FIRST_EDITS, "here")?;
    stage.ok(&["vm", "run", "-d", "--name", NAME, "--memory", "2G", "--disk-size", "12G"])?;

    say("measuring the bare stream");
    let zeros = stage.dir().join("zeros");
    fs::File::create(&zeros)?.set_len((FILES * BYTES) as u64)?;
    let stream = timed_with(stage.banger(&["vm", "exec", NAME, "--", "sh", "-c", "cat >/dev/null"]), &zeros)?;
    fs::remove_file(&zeros)?;
    say("measuring vm workspace prepare");
    let prepare = || timed(stage.banger(&["vm", "workspace", "prepare", NAME]).current_dir(&large));
    let first = prepare()?;
    let sent = (FILES * BYTES) as f64 + pack_size(&large)?;
    let rate = |bytes: f64, time: Duration| bytes / time.as_secs_f64() / 1e6;
    let (prepared, streamed) = (rate(sent, first), rate((FILES * BYTES) as f64, stream));
    print_share("prepare, of the stream's rate", prepared, streamed, RATE_GOAL);

    edit(&large, FIRST_EDITS..FIRST_EDITS + SECOND_EDITS, "again")?;
    print_comparison("prepare again / prepare", prepare()?, first, AGAIN_GOAL);

    let script = format!("for n in $(seq {FIRST_EDITS}); do echo there >> d$((n / 100))/f$n; done");
    stage.ok(&["vm", "exec", NAME, "-w", "/root/repo", "--", "sh", "-c", &script])?;
    let export = || timed(stage.banger(&["vm", "workspace", "export", NAME]).stderr(Stdio::null()));
    let diff = || timed(Command::new("git").current_dir(&large).args(["diff", "HEAD"]));
    compare("workspace export / git diff", EXPORT_GOAL, runs.min(3), export, diff)?;
    let guest_diff =
        || timed(&mut stage.banger(&["vm", "exec", NAME, "-w", "/root/repo", "--", "git", "diff", "HEAD"]));
    compare("workspace export / git diff in VM", EXPORT_GUEST_GOAL, runs.min(3), export, guest_diff)?;
    stage.ok(&["vm", "exec", NAME, "--", "rm", "-r", "/root/repo"])?;

    say("measuring tar into the VM");
    print_comparison("prepare / tar", first, tar(stage, &large)?, TAR_GOAL);
    stage.ok(&["vm", "exec", NAME, "--", "rm", "-r", "/root/tar"])?;
    say("measuring git push over ssh, a checkout, and the edited files");
    print_comparison("prepare / push over ssh, checkout", first, push(stage, &large)?, CLONE_GOAL);

    let small = repository(&stage.dir().join("small"), 20)?;
    let mut number = 0;
    let small = || {
        number += 1;
        let guest_path = format!("/root/small{number}");
        timed(
            stage
                .banger(&["vm", "workspace", "prepare", NAME, "--guest-path", &guest_path])
                .current_dir(&small),
        )
    };
    let exec = || timed(&mut stage.banger(&["vm", "exec", NAME, "--", "true"]));
    compare("prepare, of 20 files / vm exec", SMALL_GOAL, runs, small, exec)?;
    stage.ok(&["vm", "delete", "--force", "--discard", NAME])
}

/// Sends the whole directory, including `.git`, with tar on both sides.
fn tar(stage: &Stage, large: &Path) -> Result<Duration> {
    let script = "mkdir /root/tar && tar -x -C /root/tar";
    let start = Instant::now();
    pipe(
        Command::new("tar").current_dir(large).args(["-c", "."]),
        &mut stage.banger(&["vm", "exec", NAME, "--", "sh", "-c", script]),
    )?;
    Ok(start.elapsed())
}

/// Pushes with git over banger's ssh configuration, checks out, and sends the edited files with tar.
fn push(stage: &Stage, large: &Path) -> Result<Duration> {
    stage.ok(&["vm", "exec", NAME, "--", "git", "init", "-q", "/root/pushed"])?;
    let config = String::from_utf8(output(stage.banger(&["ssh-config", "-q"]).stdin(Stdio::null()))?)?;
    let ssh = format!("ssh -F {}", config.trim());
    let host = format!("{NAME}.vm");
    let start = Instant::now();
    check(
        Command::new("git").current_dir(large).envs(stage.environment()).env("GIT_SSH_COMMAND", &ssh).args([
            "push",
            "-q",
            &format!("ssh://{host}/root/pushed"),
            "HEAD:refs/heads/pushed",
        ]),
    )?;
    stage.ok(&["vm", "exec", NAME, "-w", "/root/pushed", "--", "git", "checkout", "-q", "pushed"])?;
    let edited: Vec<_> =
        (0..FIRST_EDITS + SECOND_EDITS).map(|file| format!("d{}/f{file}", file / 100)).collect();
    pipe(
        Command::new("tar").current_dir(large).arg("-c").args(edited),
        Command::new("ssh").envs(stage.environment()).args([
            "-F",
            config.trim(),
            &host,
            "tar -x -C /root/pushed",
        ]),
    )?;
    Ok(start.elapsed())
}

/// Pipes the output of `from` into `to`.
fn pipe(from: &mut Command, to: &mut Command) -> Result<()> {
    let mut from = from.stdout(Stdio::piped()).spawn()?;
    let output_pipe = from.stdout.take().context("no pipe")?;
    check(to.stdin(output_pipe).stdout(Stdio::null()))?;
    ensure!(from.wait()?.success(), "the command that writes the data failed");
    Ok(())
}

/// Creates a repository of words that compress like source text, all committed, in one of git's packs.
fn repository(root: &Path, files: usize) -> Result<PathBuf> {
    say(format_args!("creating a repository of {files} files"));
    let mut number = 1_u64;
    for file in 0..files {
        let dir = root.join(format!("d{}", file / 100));
        fs::create_dir_all(&dir)?;
        let mut out = BufWriter::new(fs::File::create(dir.join(format!("f{file}")))?);
        let mut remaining = BYTES;
        while remaining > 0 {
            // xorshift64
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            let word = format!("word{:04} ", number % 5000);
            out.write_all(word.as_bytes())?;
            remaining = remaining.saturating_sub(word.len());
        }
        out.flush()?;
    }
    let git = |args: &[&str]| check(Command::new("git").current_dir(root).args(args));
    git(&["init", "-q", "-b", "main"])?;
    git(&["add", "-A"])?;
    git(&["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "all"])?;
    git(&["repack", "-adq"])?;
    Ok(root.to_owned())
}

fn edit(root: &Path, files: std::ops::Range<usize>, text: &str) -> Result<()> {
    for file in files {
        let path = root.join(format!("d{}/f{file}", file / 100));
        writeln!(fs::OpenOptions::new().append(true).open(path)?, "{text}")?;
    }
    Ok(())
}

/// Returns the size of the packs of `root` in bytes.
fn pack_size(root: &Path) -> Result<f64> {
    let dir = root.join(".git/objects/pack");
    let sizes = fs::read_dir(&dir)?.map(|entry| Ok(entry?.metadata()?.len()));
    Ok(sizes.sum::<Result<u64>>()? as f64)
}

fn timed_with(mut command: Command, input: &Path) -> Result<Duration> {
    let input = fs::File::open(input).with_context(|| input.display().to_string())?;
    let start = Instant::now();
    check(command.stdin(input).stdout(Stdio::null()))?;
    Ok(start.elapsed())
}
