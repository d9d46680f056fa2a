//! Kills the daemon or `banger` in the middle of commands, and each process of a VM, with real VMs.
//!
//! A command that has reported success is done completely, and nothing else is left. Tests of `banger-engine` kill at
//! every point, without VMs.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_smoke::{
    Finished, Host, Registry, Running, in_lab, layout, scenario, static_busybox, tar_of, until,
};
use rustix::process::{Pid, Signal, kill_process};

/// A command during which the daemon is killed.
struct Case {
    initial_state: InitialState,
    args: &'static [&'static str],
    effect: Effect,
}

/// The state before the command.
#[derive(Clone, Copy, PartialEq)]
enum InitialState {
    NoVm,
    Stopped,
    Running,
    /// A running VM without a workspace.
    NoWorkspace,
    /// A running VM with a workspace that has changes.
    Workspace,
    /// No image and no kernel `more`.
    NoMore,
    /// An image and a kernel `more`.
    More,
    /// No image `more`, but one `another`.
    Another,
    /// An image `more` that is a registered file of the user.
    Registered,
    /// No image `more`, and a stopped VM `source`.
    Committable,
}

/// The effect of a command that has reported success.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    Creates,
    Keeps,
    Deletes,
}

const fn case(initial_state: InitialState, args: &'static [&'static str], effect: Effect) -> Case {
    Case { initial_state, args, effect }
}

/// A small VM, which boots in a second or two.
#[rustfmt::skip]
const CREATE: &[&str] = &[
    "vm", "create", "--name", "box", "--image", "tiny", "--vcpu", "1", "--memory", "128M",
    "--disk-size", "64M", "--system-overlay-size", "64M",
];
#[rustfmt::skip]
const CREATE_NO_START: &[&str] = &[
    "vm", "create", "--name", "box", "--image", "tiny", "--vcpu", "1", "--memory", "128M",
    "--disk-size", "64M", "--system-overlay-size", "64M", "--no-start",
];

/// The default kernel, imported again.
#[rustfmt::skip]
const KERNEL: &[&str] = &[
    "kernel", "import", "more", "--image", "kernel/vmlinux", "--modules", "kernel/modules",
];

#[scenario(Here, Lab, Slow)]
fn a_daemon_killed_during_create_or_delete_loses_and_leaks_nothing() -> Result<()> {
    let mut cases = vec![
        case(InitialState::NoVm, CREATE, Effect::Creates),
        case(InitialState::Running, &["vm", "delete", "--force", "box"], Effect::Deletes),
    ];
    if !in_lab() {
        // No VMM is involved.
        cases.push(case(InitialState::NoVm, CREATE_NO_START, Effect::Creates));
    }
    kill_in_each(&cases)
}

#[scenario(Here, Lab, Slow)]
fn a_daemon_killed_during_start_or_stop_loses_and_leaks_nothing() -> Result<()> {
    let mut cases = vec![
        case(InitialState::Stopped, &["vm", "start", "box"], Effect::Keeps),
        case(InitialState::Running, &["vm", "stop", "box"], Effect::Keeps),
        case(InitialState::Running, &["vm", "pause", "box"], Effect::Keeps),
    ];
    if !in_lab() {
        // The VMM's part in these is the same on each VMM.
        cases.extend([
            case(InitialState::Stopped, &["vm", "set", "--disk-size", "128M", "box"], Effect::Keeps),
            case(InitialState::Running, &["vm", "exec", "box", "--", "busybox", "true"], Effect::Keeps),
            case(InitialState::Running, &["daemon", "stop", "--force"], Effect::Keeps),
        ]);
    }
    kill_in_each(&cases)
}

#[scenario(Here, LabMore, Slow)]
fn a_daemon_killed_during_a_workspace_command_loses_and_leaks_nothing() -> Result<()> {
    kill_in_each(&[
        case(InitialState::NoWorkspace, &["vm", "workspace", "prepare", "box", "repo"], Effect::Keeps),
        case(InitialState::Workspace, &["vm", "workspace", "export", "box"], Effect::Keeps),
        case(InitialState::Workspace, &["vm", "workspace", "pull", "box"], Effect::Keeps),
    ])
}

#[scenario(Here, Slow)]
fn a_killed_daemon_leaves_no_partial_image_or_kernel() -> Result<()> {
    kill_in_each(&[
        case(InitialState::NoMore, &["image", "import", "more", "more.tar"], Effect::Creates),
        case(InitialState::NoMore, &["image", "tag", "tiny", "more"], Effect::Creates),
        case(InitialState::Another, &["image", "rename", "another", "more"], Effect::Creates),
        case(InitialState::NoMore, &["image", "register", "more", "more.ext4"], Effect::Creates),
        case(InitialState::Registered, &["image", "promote", "more"], Effect::Creates),
        case(InitialState::Committable, &["image", "commit", "source", "more"], Effect::Creates),
        case(InitialState::More, &["image", "delete", "more"], Effect::Deletes),
        case(InitialState::NoMore, KERNEL, Effect::Creates),
        case(InitialState::More, &["kernel", "delete", "more"], Effect::Deletes),
    ])
}

/// Runs each command once to record its fail points, and again with the daemon killed at the middle one.
fn kill_in_each(cases: &[Case]) -> Result<()> {
    let host = create_host()?;
    for case in cases {
        let command = case.args.join(" ");
        case.initial_state.set_up(&host)?;
        let (points, finished) = run_with_fail_point(&host, None, case.args)?;
        finished.success()?;
        let point = middle(&points).with_context(|| format!("banger {command} reached no fail point"))?;
        kill_in(&host, case, point).with_context(|| format!("banger {command}, killed at {point}"))?;
        eprintln!("bangerd was killed at {point} of banger {command}");
    }
    InitialState::NoVm.set_up(&host)?;
    let source = host.banger(&["vm", "delete", "source"])?;
    source.success().or_else(|_| host.ok(&["ps"]))?;
    host.nothing_left()
}

fn middle<T>(points: &[T]) -> Option<&T> {
    points.get(points.len() / 2)
}

/// Creates a host with everything that the commands need.
fn create_host() -> Result<Host> {
    let host = Host::tiny()?.with_fail_points()?;
    tar_of(&host.path("more.tar"), &[("bin/busybox", &static_busybox()?)], &[])?;
    let tiny = host.json(&["image", "show", "tiny"])?["id"].as_str().context("id")?.to_owned();
    let rootfs = host.path("state/banger/images").join(tiny).join("rootfs.ext4");
    fs::copy(rootfs, host.path("more.ext4"))?;
    git(&host, &["init", "-q", "repo"])?;
    fs::write(host.path("repo/file"), "sent\n")?;
    git(&host, &["-C", "repo", "add", "file"])?;
    git(&host, &["-C", "repo", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"])?;
    let kernel = host.json(&["kernel", "show", "debian-cloud"])?["id"].as_str().context("id")?.to_owned();
    std::os::unix::fs::symlink(host.path("state/banger/kernels").join(kernel), host.path("kernel"))?;
    Ok(host)
}

fn git(host: &Host, args: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("git");
    command.current_dir(host.path("")).args(args);
    Running::start(command, "git".to_owned())?.finish(b"")?.success().map(drop)
}

fn kill_in(host: &Host, case: &Case, point: &str) -> Result<()> {
    case.initial_state.set_up(host)?;
    let before = vm(host)?;
    let (_, finished) = run_with_fail_point(host, Some(point), case.args)?;
    let reported = finished.status.success();
    wait_for_takeover(host)?;
    host.agrees()?;
    if case.args[0] == "image" || case.args[0] == "kernel" {
        let exists = host.banger(&[case.args[0], "show", "more"])?.status.success();
        ensure!(
            !reported || exists == (case.effect == Effect::Creates),
            "it was reported as done, but is not"
        );
        if exists && case.args[0] == "image" {
            check_image(host, "more")?;
        }
        return Ok(());
    }
    let after = vm(host)?;
    match case.effect {
        Effect::Creates => {
            ensure!(after.is_some() || !reported, "a VM that was reported as created is missing")
        }
        Effect::Deletes => ensure!(after.is_none() || !reported, "a VM that was reported as deleted exists"),
        Effect::Keeps => ensure!(
            after.as_ref().map(|vm| &vm.id) == before.as_ref().map(|vm| &vm.id),
            "the VM was replaced or is missing"
        ),
    }
    let Some(vm) = after else { return Ok(()) };
    if !["running", "paused"].contains(&vm.state.as_str()) {
        host.disks_are_clean("box")?;
    }
    InitialState::Running.set_up(host)?;
    if case.effect == Effect::Creates {
        host.ok(&["vm", "exec", "box", "--", "busybox", "true"])?;
    } else {
        check_data(host)?;
    }
    if case.args[1] == "workspace" {
        check_workspace(host, case)?;
    }
    Ok(())
}

/// Checks that the image's file system exists and has no errors.
fn check_image(host: &Host, image: &str) -> Result<()> {
    let shown = host.json(&["image", "show", image])?;
    let dir = host.path("state/banger/images").join(shown["id"].as_str().context("id")?);
    let mut check = std::process::Command::new("/usr/sbin/e2fsck");
    check.args(["-f", "-n"]).arg(dir.join("rootfs.ext4"));
    Running::start(check, format!("e2fsck of image {image}"))?.finish(b"")?.success()?;
    ensure!(shown["problem"].is_null(), "it cannot be used: {shown}");
    Ok(())
}

/// Checks that a killed workspace command has left nothing incomplete, and succeeds now.
fn check_workspace(host: &Host, case: &Case) -> Result<()> {
    let in_guest = |script: &str| host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script]);
    until("the agent has removed incomplete files", || {
        Ok(!in_guest("ls -A /root")?.contains(".banger-staging"))
    })?;
    run_in_dir(host, case.args)?;
    ensure!(in_guest("cat /root/repo/file")?.contains("sent"), "the file differs from what was sent");
    Ok(())
}

/// Runs `banger` in the directory with the repository.
fn run_in_dir(host: &Host, args: &[&str]) -> Result<String> {
    let mut command = host.command(args);
    command.current_dir(host.path(""));
    Running::start(command, format!("banger {}", args.join(" ")))?.finish(b"")?.success()
}

/// Starts the next daemon, as any command does, and waits until it has completed the last one's work: a guest that
/// was stopping shuts down cleanly.
fn wait_for_takeover(host: &Host) -> Result<()> {
    let transitional = ["starting", "stopping"].map(serde_json::Value::from);
    host.until("no VM is starting or stopping", || {
        let vms = host.json(&["ps", "-a"])?;
        Ok(!vms.as_array().into_iter().flatten().any(|vm| transitional.contains(&vm["state"])))
    })
}

/// Runs a command with a daemon that is killed at `point`, if given. Also returns the fail points that it reached.
fn run_with_fail_point(host: &Host, point: Option<&str>, args: &[&str]) -> Result<(Vec<String>, Finished)> {
    // By force: the daemon may not have noticed yet that the last session has ended.
    host.ok(&["daemon", "stop", "--force"])?;
    let mut ps = host.command(&["ps"]);
    let record = set_fail_point(&mut ps, host, point)?;
    Running::start(ps, "banger ps, with a fail point".to_owned())?.finish(b"")?.success()?;
    let mut command = host.command(args);
    command.current_dir(host.path(""));
    let finished = Running::start(command, format!("banger {}", args.join(" ")))?.finish(b"")?;
    Ok((reached(&record, point)?, finished))
}

/// Makes the daemon that `command` starts record its fail points, and be killed at `point`.
fn set_fail_point(
    command: &mut std::process::Command,
    host: &Host,
    point: Option<&str>,
) -> Result<std::path::PathBuf> {
    let record = host.path("record");
    fs::write(&record, "")?;
    command.env("BANGER_FAIL_POINT_RECORD", &record);
    if let Some(point) = point {
        command.env("BANGER_FAIL_POINT", point);
    }
    Ok(record)
}

fn reached(record: &std::path::Path, point: Option<&str>) -> Result<Vec<String>> {
    let points: Vec<_> = fs::read_to_string(record)?.lines().map(str::to_owned).collect();
    ensure!(
        point.is_none_or(|point| points.iter().any(|reached| reached == point)),
        "reached only {points:?}"
    );
    Ok(points)
}

#[scenario(Here)]
fn a_daemon_killed_during_a_failing_start_keeps_the_vm_and_its_error() -> Result<()> {
    let host = Host::new()?.with_fail_points()?;
    let tar = host.path("broken.tar");
    let init: &[u8] = b"#!/bin/sh\nexit 3\n";
    tar_of(&tar, &[("bin/busybox", &static_busybox()?), ("sbin/init", init)], &[("bin/sh", "/bin/busybox")])?;
    host.ok(&["image", "import", "broken", &tar.display().to_string()])?;
    let args = ["vm", "run", "-d", "--name", "bad", "--image", "broken", "--memory", "128M"];
    let (points, finished) = run_with_fail_point(&host, None, &args)?;
    finished.fails(125, &["Kernel panic"])?;
    host.ok(&["vm", "delete", "bad"])?;
    // The last points belong to the failure; a start that succeeds reaches the others.
    let point = points.last().context("a failed start reached no fail point")?;
    run_with_fail_point(&host, Some(point), &args)?;
    host.ok(&["ps"])?;
    host.agrees().with_context(|| format!("killed at {point}"))?;
    if host.json(&["ps", "-a"])? == serde_json::json!([]) {
        host.banger(&args)?.fails(125, &["Kernel panic"])?;
    }
    let vm = host.json(&["vm", "show", "bad"])?;
    ensure!(vm["state"] == "error" && vm["last_error"].is_string(), "{vm}");
    Ok(())
}

#[scenario(Here)]
fn a_daemon_killed_while_replacing_an_image_keeps_the_one_in_use() -> Result<()> {
    let host = Host::new()?.with_fail_points()?;
    let registry = Registry::start(None)?;
    let name = format!("{}/box:1", registry.address());
    let pull = ["image", "pull", &name];
    let images = ["old", "new"].map(|content| -> Result<String> {
        let tar = host.path(content);
        tar_of(&tar, &[("content", content.as_bytes())], &[])?;
        layout(&host.path(&format!("layout-{content}")), &[tar], &[])
    });
    let [old, new] = images;
    registry.push(&old?, "box:1", &[])?;
    host.ok(&pull)?;
    let before = host.json(&["image", "show", &name])?;
    host.ok(&["vm", "create", "--no-start", "--name", "keeps", "--image", &name])?;
    registry.push(&new?, "box:1", &[])?;
    let (_, killed) = run_with_fail_point(&host, Some("image/replace:before#1"), &pull)?;
    ensure!(!killed.status.success(), "it was not killed");
    host.ok(&pull)?;
    host.agrees()?;
    ensure!(host.json(&["image", "show", &name])?["digest"] != before["digest"], "it is not the new image");
    let kept = host.json(&["vm", "show", "keeps"])?["image"].as_str().context("image")?.to_owned();
    ensure!(host.json(&["image", "show", &kept])?["id"] == before["id"], "the VM has {kept}");
    host.ok(&["vm", "delete", "keeps"])?;
    host.ok(&["image", "delete", &kept, &name])?;
    host.agrees()
}

#[scenario(Here)]
fn a_daemon_killed_during_its_first_start_can_start_again() -> Result<()> {
    let first = |point: Option<&str>| {
        let host = Host::bare()?.with_fail_points()?;
        let mut command = host.command(&["ps"]);
        let record = set_fail_point(&mut command, &host, point)?;
        Running::start(command, "the first banger ps".to_owned())?.finish(b"")?;
        let points = reached(&record, point)?;
        host.ok(&["ps"])?;
        host.agrees()?;
        anyhow::Ok(points)
    };
    let points = first(None)?;
    let point = middle(&points).context("the first start reached no fail point")?;
    first(Some(point)).with_context(|| format!("killed at {point}"))?;
    Ok(())
}

impl InitialState {
    fn set_up(self, host: &Host) -> Result<()> {
        let state = vm(host)?.map(|vm| vm.state);
        match (self, state.as_deref()) {
            (Self::NoVm, Some(_)) => host.ok(&["vm", "delete", "--force", "--discard", "box"]).map(drop)?,
            (Self::NoWorkspace | Self::Workspace, _) => {
                Self::Running.set_up(host)?;
                let _ = fs::remove_dir_all(host.path("state/banger/workspaces"));
                let clear = "rm -rf /root/repo /root/.banger-staging";
                host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", clear])?;
                if self == Self::Workspace {
                    run_in_dir(host, &["vm", "workspace", "prepare", "box", "repo"])?;
                    let work = "echo done there >> /root/repo/file";
                    host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", work])?;
                }
            }
            (Self::Stopped | Self::Running, None) => {
                host.ok(CREATE)?;
                let script = "echo kept > /root/kept; echo kept > /etc/kept; sync";
                host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script])?;
                self.set_up(host)?;
            }
            (Self::Running, Some("paused")) => host.ok(&["vm", "resume", "box"]).map(drop)?,
            (Self::Stopped, Some("running" | "paused")) => host.ok(&["vm", "stop", "box"]).map(drop)?,
            (Self::Running, Some(state)) if state != "running" => {
                host.ok(&["vm", "start", "box"]).map(drop)?;
            }
            (Self::Another, _) => {
                Self::NoMore.set_up(host)?;
                if !host.banger(&["image", "show", "another"])?.status.success() {
                    host.ok(&["image", "tag", "tiny", "another"])?;
                }
            }
            (Self::Registered, _) => {
                Self::NoMore.set_up(host)?;
                run_in_dir(host, &["image", "register", "more", "more.ext4"])?;
            }
            (Self::Committable, _) => {
                Self::NoMore.set_up(host)?;
                if !host.banger(&["vm", "show", "source"])?.status.success() {
                    let small: Vec<_> =
                        CREATE.iter().map(|arg| if *arg == "box" { "source" } else { *arg }).collect();
                    host.ok(&small)?;
                    host.ok(&["vm", "stop", "source"])?;
                }
            }
            (Self::More | Self::NoMore, _) => {
                let should_exist = self == Self::More;
                set_up_more(host, "image", should_exist, &["more.tar"])?;
                set_up_more(host, "kernel", should_exist, &KERNEL[3..])?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Imports or deletes the image or kernel `more`.
fn set_up_more(host: &Host, kind: &str, should_exist: bool, source: &[&str]) -> Result<()> {
    let exists = host.banger(&[kind, "show", "more"])?.status.success();
    let mut command = match (exists, should_exist) {
        (false, true) => host.command(&[&[kind, "import", "more"], source].concat()),
        (true, false) => host.command(&[kind, "delete", "more"]),
        _ => return Ok(()),
    };
    command.current_dir(host.path(""));
    Running::start(command, format!("{kind} more"))?.finish(b"")?.success()?;
    Ok(())
}

struct Vm {
    id: String,
    state: String,
}

/// Returns the VM `box`, if it exists.
fn vm(host: &Host) -> Result<Option<Vm>> {
    let vms = host.json(&["ps", "-a"])?;
    let vm = vms.as_array().into_iter().flatten().find(|vm| vm["name"] == "box");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(vm.map(|vm| Vm { id: text(&vm["id"]), state: text(&vm["state"]) }))
}

fn check_data(host: &Host) -> Result<()> {
    let kept = host.ok(&["vm", "exec", "box", "--", "busybox", "cat", "/root/kept", "/etc/kept"])?;
    ensure!(kept == "kept\nkept\n", "the VM has lost its files: {kept:?}");
    Ok(())
}

fn kill(pid: i32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid).context("pid")?, Signal::KILL)?)
}

#[scenario(Here, Lab, Slow)]
fn a_vm_reports_each_killed_process_and_can_start_again() -> Result<()> {
    let host = Host::tiny()?;
    let roles: Vec<_> = {
        InitialState::Running.set_up(&host)?;
        host.vm_processes()?.into_iter().map(|(role, _)| role).collect()
    };
    assert!(roles.iter().any(|role| role == "VMM"), "{roles:?}");
    for (watched, role) in [(true, roles.clone()), (false, roles.clone())]
        .into_iter()
        .flat_map(|(watched, roles)| roles.into_iter().map(move |role| (watched, role)))
    {
        InitialState::Running.set_up(&host)?;
        let pid =
            host.vm_processes()?.into_iter().find(|(other, _)| *other == role).context("no such process")?.1;
        if !watched {
            kill(host.daemon_pid()?)?;
        }
        kill(pid)?;
        if ["console", "pasta", "gateway"].contains(&role.as_str()) {
            // Only what the guest writes to the console from now on is lost, or its network.
            check_data(&host)?;
            let lost = || Ok::<_, anyhow::Error>(host.json(&["vm", "show", "box"])?["network"] != "user");
            host.until("a lost network is reported", || Ok(role == "console" || lost()?))?;
            host.ok(&["vm", "stop", "box"])?;
        } else {
            host.until("the exit is noticed", || Ok(vm(&host)?.is_some_and(|vm| vm.state != "running")))?;
            let vm = host.json(&["vm", "show", "box"])?;
            let last_error = vm["last_error"].as_str().unwrap_or_default();
            // A daemon that was not running cannot know the reason.
            let words =
                if watched { format!("its {role} was killed by signal 9") } else { "ended".to_owned() };
            ensure!(vm["state"] == "error" && last_error.contains(&words), "{role}: {vm}");
        }
        host.agrees().with_context(|| role.clone())?;
        host.disks_are_clean("box")?;
        host.ok(&["vm", "start", "box"])?;
        check_data(&host)?;
    }
    eprintln!("killed, with and without a running daemon: {}", roles.join(", "));
    Ok(())
}

#[scenario(Here, LabMore)]
fn a_killed_agent_beside_an_init_starts_again() -> Result<()> {
    let host = Host::new()?;
    let tar = host.path("init.tar");
    // Without an init, the agent is PID 1 and cannot be killed.
    let init: &[u8] = b"#!/bin/sh\nwhile :; do sleep 1000; done\n";
    tar_of(&tar, &[("bin/busybox", &static_busybox()?), ("sbin/init", init)], &[("bin/sh", "/bin/busybox")])?;
    host.ok(&["image", "import", "tiny", &tar.display().to_string()])?;
    InitialState::Running.set_up(&host)?;
    let script = "for process in /proc/[0-9]*; do
        if busybox tr '\\0' ' ' < $process/cmdline | busybox grep -q ' serve [{]'; then
            kill -9 ${process#/proc/}
        fi
    done";
    let killed = host.banger(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script])?;
    ensure!(killed.status.code() == Some(125), "the session outlived the agent: {killed:?}");
    host.until("the agent serves again", || {
        Ok(host.banger(&["vm", "exec", "box", "--", "busybox", "true"])?.success().is_ok())
    })?;
    host.agrees()?;
    host.ok(&["vm", "stop", "box"])?;
    host.agrees()?;
    host.disks_are_clean("box")?;
    host.ok(&["vm", "start", "box"])?;
    check_data(&host)
}

#[scenario(Here)]
fn released_programs_have_no_fail_points() -> Result<()> {
    let has = |host: &Host, program: &str| {
        let bytes = fs::read(host.program(program))?;
        anyhow::Ok(bytes.windows(17).any(|window| window == b"BANGER_FAIL_POINT"))
    };
    let (released, tested) = (Host::bare()?, Host::bare()?.with_fail_points()?);
    for program in ["banger", "bangerd"] {
        assert!(!has(&released, program)?, "{program}");
        assert!(has(&tested, program)?, "{program}");
    }
    Ok(())
}

/// Runs each command once to record the fail points of `banger`, and again for each of them, where it is killed. The
/// tests of `banger` do the same with more commands, without VMs.
#[scenario(Here, LabMore, Slow)]
fn a_command_killed_at_any_point_of_a_workspaces_life_loses_no_work() -> Result<()> {
    let host = create_host()?;
    let commands: [(InitialState, &[&str]); 3] = [
        (InitialState::NoWorkspace, &["vm", "workspace", "prepare", "box", "repo"]),
        (InitialState::Workspace, &["vm", "workspace", "pull", "box"]),
        (InitialState::Workspace, &["vm", "delete", "--force", "box"]),
    ];
    for (initial_state, args) in commands {
        let command = args.join(" ");
        initial_state.set_up(&host)?;
        let points = record_points_of_banger(&host, args)?;
        eprintln!("banger {command} has {} points", points.len());
        for point in points {
            initial_state.set_up(&host)?;
            remove_saved_work(&host)?;
            let mut killed = host.command(args);
            killed.current_dir(host.path("")).env("BANGER_FAIL_POINT", &point);
            let killed = Running::start(killed, format!("banger {command}, killed"))?.finish(b"")?;
            ensure!(killed.status.code().is_none(), "{command} was not killed at {point}: {killed:?}");
            if args[2] == "prepare" {
                // Completes what was begun; without git in the guest, nothing else can compare the two sides.
                run_in_dir(&host, args)?;
            }
            let deleted = delete_with_work(&host);
            deleted.with_context(|| format!("banger {command}, killed at {point}"))?;
        }
    }
    host.nothing_left()
}

fn record_points_of_banger(host: &Host, args: &[&str]) -> Result<Vec<String>> {
    let record = host.path("record");
    fs::write(&record, "")?;
    let mut command = host.command(args);
    command.current_dir(host.path("")).env("BANGER_FAIL_POINT_RECORD", &record);
    Running::start(command, format!("banger {}, recorded", args.join(" ")))?.finish(b"")?.success()?;
    Ok(fs::read_to_string(record)?.lines().map(str::to_owned).collect())
}

/// Deletes the VM `box`, and checks that work in it is saved before.
fn delete_with_work(host: &Host) -> Result<()> {
    let mut has_work = true;
    if vm(host)?.is_some() {
        let script = "if test -e /root/repo; then echo done there >> /root/repo/file; echo sent; fi";
        has_work = host.ok(&["vm", "exec", "box", "--", "busybox", "sh", "-c", script])?.contains("sent");
        host.ok(&["vm", "delete", "--force", "box"])?;
    }
    let saved = ["-C", "repo", "show", "refs/banger/box/uncommitted:file"];
    ensure!(!has_work || git(host, &saved).is_ok(), "the work is lost");
    ensure!(vm(host)?.is_none(), "the VM exists");
    Ok(())
}

/// Removes the refs with work of an earlier VM.
fn remove_saved_work(host: &Host) -> Result<()> {
    match fs::remove_dir_all(host.path("repo/.git/refs/banger")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
