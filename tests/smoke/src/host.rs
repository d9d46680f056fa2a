//! An isolated host for each scenario: XDG directories of its own, and a daemon that uses them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    run::{Finished, Running, inside, until_event},
    tree,
};

/// Returns a path that `cargo xtask test` prepares: the value of `variable`, or `name` in `target`.
fn prepared(variable: &str, name: &str) -> Result<PathBuf> {
    let in_target = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(name);
    let path = std::env::var_os(variable).map_or_else(in_target, PathBuf::from);
    fs::canonicalize(&path).with_context(|| format!("{}: `cargo xtask test` creates it", path.display()))
}

fn template() -> Result<PathBuf> {
    prepared("BANGER_SMOKE_TEMPLATE", "template")
}

/// An isolated host. Dropping it deletes its VMs and stops its daemon.
#[derive(Debug)]
pub struct Host {
    dir: TempDir,
    programs: PathBuf,
    /// A process in whose namespaces everything runs.
    inside: Option<u32>,
    /// The ordinary user that everything runs as.
    user: Option<User>,
}

/// A user without an account and privileges, and a group, if any.
#[derive(Debug, Clone, Copy)]
struct User {
    id: u32,
    group: Option<u32>,
}

/// The image of the template.
const DEFAULT_IMAGE: &str = "debian-bookworm";

/// An id that no account has.
const USER: u32 = 62_619;

/// The device of KVM, whose group may use it.
const KVM: &str = "/dev/kvm";

impl Host {
    /// Returns a host with the default image and kernel.
    ///
    /// # Errors
    /// Returns an error if there is no template, or if it cannot be linked.
    pub fn new() -> Result<Self> {
        let template = template()?;
        let host = Self::bare()?;
        link_tree(&template, host.dir.path()).context("cannot link the template")?;
        Ok(host)
    }

    /// Returns the host whose files are linked into hosts with the image `tiny`; its daemon is stopped.
    pub(crate) fn with_tiny() -> Result<Self> {
        let host = Self::new()?;
        let tar = host.path("tiny.tar");
        tree::tar_of(&tar, &[("bin/busybox", &tree::static_busybox()?)], &[("bin/sh", "busybox")])?;
        host.ok(&["image", "import", "tiny", &tar.display().to_string()])?;
        host.ok(&["daemon", "stop"])?;
        Ok(host)
    }

    /// Returns a host that also has an image `git`: busybox and git.
    ///
    /// # Errors
    /// Returns an error as [`tiny`](Self::tiny) does.
    pub fn with_git() -> Result<Self> {
        Self::with_program("git")
    }

    /// Returns a host that also has an image with busybox and this program, whose name it has.
    ///
    /// # Errors
    /// Returns an error as [`tiny`](Self::tiny) does, or if the program is not installed.
    pub fn with_program(name: &str) -> Result<Self> {
        Self::with_programs(name, &[name])
    }

    /// Returns a host that also has an image with busybox and these programs.
    ///
    /// # Errors
    /// Returns an error as [`with_program`](Self::with_program) does.
    pub fn with_programs(image: &str, programs: &[&str]) -> Result<Self> {
        let host = Self::new()?;
        let tar = host.path("program.tar");
        let paths: Vec<_> = programs.iter().map(|name| format!("/usr/bin/{name}")).collect();
        tree::tar_with(&tar, &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
        host.ok(&["image", "import", image, &tar.display().to_string()])?;
        fs::remove_file(&tar)?;
        Ok(host)
    }

    /// Returns a host with a running VM `box` of the default image, which has a user `dev`.
    ///
    /// # Errors
    /// Returns an error as [`new`](Self::new) does, or if the VM does not start.
    pub fn with_debian() -> Result<Self> {
        let host = Self::new()?;
        host.ok(&["vm", "run", "-d", "--name", "box"])?;
        host.ok(&["vm", "exec", "box", "--", "useradd", "--create-home", "--shell", "/bin/bash", "dev"])?;
        Ok(host)
    }

    /// Returns this host with a `banger` and a daemon that have fail points.
    ///
    /// # Errors
    /// Returns an error if those are not built.
    pub fn with_fail_points(mut self) -> Result<Self> {
        self.programs = prepared("BANGER_FAIL_PROGRAMS", "banger-fail")?;
        Ok(self)
    }

    /// Returns this host with everything that it runs in the namespaces of process `pid`.
    pub(crate) fn in_namespaces_of(mut self, pid: u32) -> Self {
        self.inside = Some(pid);
        self
    }

    /// Returns this host as an ordinary user's, in no group but that of `/dev/kvm`, and without the default image. Needs
    /// root.
    ///
    /// # Errors
    /// Returns an error if the files cannot be copied.
    pub fn of_ordinary_user(self) -> Result<Self> {
        self.ok(&["image", "delete", DEFAULT_IMAGE])?;
        self.ok(&["daemon", "stop"])?;
        // The directories above this host's may be closed to other users, and its files are linked to the template's.
        let mut host = Self::bare_in(&std::env::temp_dir())?;
        for name in ["state", "cache", "config"] {
            run(Command::new("cp").args(["-a", "--sparse=always"]).arg(self.path(name)).arg(host.path("")))?;
        }
        run(Command::new("cp").arg("-a").arg(&self.programs).arg(host.path("programs")))?;
        run(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(host.path("")))?;
        // Root's group is no ordinary user's.
        let group = fs::metadata(KVM).ok().map(|device| device.gid()).filter(|group| *group != 0);
        host.user = Some(User { id: USER, group });
        host.programs = host.path("programs");
        Ok(host)
    }

    /// Returns a host on which banger has never run.
    ///
    /// # Errors
    /// Returns an error if there are no programs, or if a directory cannot be created.
    pub fn bare() -> Result<Self> {
        // Beside the template if there is one, so that its files can be linked. Socket paths must stay short.
        let template = template().ok();
        let parent =
            template.as_deref().and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_path_buf);
        Self::bare_in(&parent)
    }

    fn bare_in(parent: &Path) -> Result<Self> {
        let programs = prepared("BANGER_PROGRAMS", "banger")?;
        let dir = tempfile::Builder::new().prefix("smoke-").tempdir_in(parent)?;
        let host = Self { dir, programs, inside: None, user: None };
        for name in ["state", "cache", "config", "run"] {
            fs::create_dir_all(host.path(name))?;
        }
        fs::set_permissions(host.path("run"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(host)
    }

    /// Returns a path in the host's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the path of a built program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Returns `banger` with these arguments, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.tool(&self.program("banger").display().to_string());
        command.args(args);
        command
    }

    /// Returns Python with the packages of the client in `tests/python`, not yet started.
    ///
    /// # Errors
    /// Returns an error if the packages are not installed.
    pub fn python(&self) -> Result<Command> {
        let mut python = self.tool("python3");
        python.env("PYTHONPATH", prepared("BANGER_PYTHON", "python")?);
        Ok(python)
    }

    /// Returns any program with this host's environment, not yet started.
    pub fn tool(&self, program: &str) -> Command {
        let mut words = Vec::new();
        if let Some(User { id, group }) = self.user {
            let groups = group.map_or("--clear-groups".to_owned(), |group| format!("--groups={group}"));
            words.extend(["setpriv".to_owned(), format!("--reuid={id}"), format!("--regid={id}"), groups]);
            words.push("--".to_owned());
        }
        words.push(program.to_owned());
        let (program, arguments) = words.split_first().map_or((program, &[][..]), |(p, a)| (p.as_str(), a));
        let mut command = match self.inside {
            Some(pid) => inside(pid, program),
            None => Command::new(program),
        };
        command.args(arguments);
        command.env_remove("BANGER_LOG").env("HOME", self.dir.path()).env("NO_COLOR", "1");
        for (variable, name) in [
            ("XDG_STATE_HOME", "state"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            command.env(variable, self.path(name));
        }
        // Not those of this machine.
        command.env("BANGER_SYSTEM_CONFIG", self.path("system.toml")).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Runs `banger` until it exits, with an empty standard input.
    ///
    /// # Errors
    /// Returns an error if it cannot be started or does not exit.
    pub fn banger(&self, args: &[&str]) -> Result<Finished> {
        self.start(args)?.finish(b"")
    }

    /// Starts `banger` and leaves it running.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub fn start(&self, args: &[&str]) -> Result<Running> {
        Running::start(self.command(args), format!("banger {}", args.join(" ")))
    }

    /// Runs `banger`, which must succeed, and returns its standard output.
    ///
    /// # Errors
    /// Returns an error if it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.banger(args)?.success()
    }

    /// Returns what `banger` prints with `-o json`.
    ///
    /// # Errors
    /// Returns an error if it fails, or if its output is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Returns the checks of `banger doctor`, whatever its exit code.
    ///
    /// # Errors
    /// Returns an error if its output is not JSON.
    pub fn checks(&self) -> Result<Value> {
        let doctor = self.banger(&["doctor", "-o", "json"])?;
        serde_json::from_str(&doctor.stdout).with_context(|| format!("not JSON: {doctor:?}"))
    }

    /// Waits until `holds` returns true, and checks it again at each event of `banger events`. Use it for the states
    /// of VMs and operations.
    ///
    /// # Errors
    /// Returns an error if a check fails, or after a timeout.
    pub fn until(&self, condition: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
        until_event(condition, holds, || self.start(&["events", "-f", "--since", "1h"]))
    }

    /// Returns the id of the ordinary user that everything runs as.
    pub fn user_id(&self) -> Option<u32> {
        self.user.map(|user| user.id)
    }

    /// Returns the daemon's process id.
    ///
    /// # Errors
    /// Returns an error if it does not run.
    pub fn daemon_pid(&self) -> Result<i32> {
        let status = self.json(&["daemon", "status"])?;
        let pid = status["pid"].as_i64().with_context(|| format!("no pid in {status}"))?;
        Ok(i32::try_from(pid)?)
    }

    /// Checks that no VM is left, nor any process, socket or file of one.
    ///
    /// # Errors
    /// Returns an error if something is left.
    pub fn nothing_left(&self) -> Result<()> {
        let vms = self.json(&["ps", "-a"])?;
        ensure!(vms == Value::Array(vec![]), "VMs are left: {vms}");
        for dir in ["state/banger/vms", "state/banger/run/vms"] {
            let remaining = names_in(&self.path(dir))?;
            ensure!(remaining.is_empty(), "left in {dir}: {remaining:?}");
        }
        let daemon = self.daemon_pid()?;
        let remaining: Vec<_> = self.processes()?.into_iter().filter(|(pid, _)| *pid != daemon).collect();
        ensure!(remaining.is_empty(), "processes are left: {remaining:?}");
        Ok(())
    }

    /// Returns a program in the network namespace of a running VM, not yet started.
    ///
    /// # Errors
    /// Returns an error if the VM has no network.
    pub fn in_network_of(&self, vm: &str, program: &str) -> Result<Command> {
        let shown = self.json(&["vm", "show", vm])?;
        let id = shown["id"].as_str().with_context(|| format!("no id in {shown}"))?;
        let marker = format!("BANGER_PROCESS={}/{id}#", self.path("state/banger/vms").display());
        let is_of_vm = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            contains(&environment, marker.as_bytes())
        };
        // Its command line is also a part of pasta's.
        let is_namespace = |line: &str| line.split(' ').nth(1) == Some("namespace");
        let processes = self.processes()?.into_iter().filter(|(_, line)| is_namespace(line));
        let mut pids = processes.map(|(pid, _)| pid).filter(is_of_vm);
        let pid = pids.next().with_context(|| format!("VM {vm} has no network"))?;
        Ok(inside(u32::try_from(pid)?, program))
    }

    /// Returns the pid and command line of each process with this host's directory in its arguments, of each bangerd
    /// with it in its environment, and of each process of a VM in it.
    ///
    /// # Errors
    /// Returns an error if `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<(i32, String)>> {
        let needle = self.dir.path().as_os_str().as_encoded_bytes();
        let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        let mut processes = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // A process may exit while it is read.
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let line = read("cmdline");
            let environment = read("environ");
            let marker = [b"BANGER_PROCESS=", needle].concat();
            let is_of_vm = contains(&environment, &marker);
            if has(&line) || is_of_vm || (has(&environment) && contains(&line, b"bangerd")) {
                processes.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        Ok(processes)
    }

    fn tear_down(&self) -> Result<()> {
        let vms = self.banger(&["ps", "-a", "-q"])?;
        let ids: Vec<_> = vms.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            self.banger(&[&["vm", "delete", "--force"], ids.as_slice()].concat())?;
        }
        self.banger(&["daemon", "stop", "--force"])?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let result = self.tear_down();
        for (pid, line) in self.processes().unwrap_or_default() {
            // The daemon may still be exiting; a failed scenario may have left other processes.
            print_line(&format!("killing a leftover process: {pid} {line}"));
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if let Err(error) = result {
            print_line(&format!("cannot clean up the scenario's host: {error:#}"));
        }
    }
}

/// Prints a line to the output of a failed scenario.
#[allow(clippy::print_stderr)]
fn print_line(text: &str) {
    eprintln!("{text}");
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => bail!("{}: {error}", dir.display()),
    }
}

/// Hard-links the files under `from` into `to`. The store, logs and locks are copied, because they are written to.
pub(crate) fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let written = name.starts_with("store.") || name.ends_with(".log") || name.ends_with(".lock");
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            fs::set_permissions(&target, fs::metadata(&source)?.permissions())?;
            link_tree(&source, &target)?;
        } else if entry.file_type()?.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if written || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).with_context(|| source.display().to_string())?;
        }
    }
    Ok(())
}
