//! Kills the daemon before and after every write of the store, in every command.
//!
//! Then a new daemon starts. Everything that was acknowledged must exist and be intact; nothing else may remain.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use banger_api::{ApiError, ErrorKind, PortProtocol, Publish, Size, Vmm};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    catalogs::Team,
    consistency::{boots, check_file_system},
    driver::Command,
    host::{Host, KilledRun, VMMS},
    ports::port_to,
    registry::{Image, Registry},
    say, trial,
    vmm::faults::{Fault, Phase},
};

/// Names of the points at which daemons were killed, and the number of kills.
static TALLY: Mutex<(BTreeSet<String>, usize)> = Mutex::new((BTreeSet::new(), 0));

/// The state of the host before a command.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    NoVm,
    Stopped,
    Running,
    Paused,
    /// No image and no kernel `more`.
    NoMore,
    /// An image and a kernel `more`.
    More,
    /// No image `more`, but an image `another`.
    Another,
    /// No image `more`, but a user's file to register.
    File,
    /// A registered image `more`.
    Registered,
    /// No image `more`, but a stopped VM `box`.
    Committable,
}

/// Effect of the command on its VM, image or kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Effect {
    Creates,
    Keeps,
    Removes,
}

/// A command whose daemon is killed at each of its points.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    before: Before,
    command: fn(&Stage) -> Command,
    effect: Effect,
}

/// Host and VMM of a case.
#[derive(Debug)]
struct Stage {
    host: Host,
    vmm: Vmm,
}

const fn case(name: &'static str, before: Before, effect: Effect, command: fn(&Stage) -> Command) -> Case {
    Case { name, before, command, effect }
}

/// Commands on a VM, run with each VMM.
#[rustfmt::skip]
const VMS: &[Case] = &[
    case("vm_create", Before::NoVm, Effect::Creates, |stage| stage.create(true)),
    case("vm_create_no_start", Before::NoVm, Effect::Creates, |stage| stage.create(false)),
    case("vm_start", Before::Stopped, Effect::Keeps, |_| Command::StartVm(owned("box"))),
    case("vm_restart", Before::Running, Effect::Keeps, |_| Command::RestartVm(owned("box"))),
    case("vm_stop", Before::Running, Effect::Keeps, |_| Command::StopVm(owned("box"))),
    case("vm_stop_paused", Before::Paused, Effect::Keeps, |_| Command::StopVm(owned("box"))),
    case("vm_kill", Before::Running, Effect::Keeps, |_| Command::KillVm(owned("box"))),
    case("vm_pause", Before::Running, Effect::Keeps, |_| Command::PauseVm(owned("box"))),
    case("vm_resume", Before::Paused, Effect::Keeps, |_| Command::ResumeVm(owned("box"))),
    case("vm_set", Before::Stopped, Effect::Keeps, |_| Command::SetVm { name: owned("box"), disk_size: Size::mib(128) }),
    case("vm_publish", Before::Running, Effect::Keeps, |_| Command::PublishPort { vm: owned("box"), port: port_to(80).unwrap_or(PORT) }),
    // For the daemon, `vm workspace` and `vm cp` are the same: a session with the guest.
    case("vm_exec", Before::Running, Effect::Keeps, |_| Command::Exec { vm: owned("box"), argv: vec![owned("true")] }),
    case("vm_delete", Before::Running, Effect::Removes, |_| Command::DeleteVm(owned("box"))),
    case("daemon_stop", Before::Running, Effect::Keeps, |_| Command::Close),
];

/// Commands on images and kernels.
#[rustfmt::skip]
const IMAGES: &[Case] = &[
    case("image_import", Before::NoMore, Effect::Creates, |stage| {
        Command::ImportImage { name: owned("more"), tar: stage.host.path("tiny.tar") }
    }),
    case("image_tag", Before::NoMore, Effect::Creates, |_| {
        Command::TagImage { image: owned("tiny"), name: owned("more") }
    }),
    case("image_rename", Before::Another, Effect::Creates, |_| {
        Command::RenameImage { image: owned("another"), name: owned("more") }
    }),
    case("image_register", Before::File, Effect::Creates, |stage| stage.register()),
    case("image_promote", Before::Registered, Effect::Creates, |_| Command::PromoteImage(owned("more"))),
    case("image_commit", Before::Committable, Effect::Creates, |_| {
        Command::CommitVm { vm: owned("box"), name: owned("more") }
    }),
    case("image_delete", Before::More, Effect::Removes, |_| Command::DeleteImage(owned("more"))),
    case("kernel_import", Before::NoMore, Effect::Creates, |stage| stage.import_kernel()),
    case("kernel_delete", Before::More, Effect::Removes, |_| Command::DeleteKernel(owned("more"))),
];

/// A port that is published if no free one is found.
const PORT: Publish = Publish { address: None, host: 9_999, guest: 80, protocol: PortProtocol::Tcp };

fn owned(name: &str) -> String {
    name.to_owned()
}

pub(crate) fn trials() -> Vec<Trial> {
    let vms = VMMS.iter().flat_map(|&vmm| VMS.iter().map(move |&case| (vmm, case)));
    let images = IMAGES.iter().map(|&case| (Vmm::Firecracker, case));
    let cases = vms.chain(images);
    let cases = cases.map(|(vmm, case)| {
        trial(format!("killed::{}::{vmm:?}", case.name), move || Stage::new(vmm)?.kill_at_all_points(case))
    });
    let others = [
        trial("killed::a_killed_first_start_leaves_a_usable_host", a_killed_first_start_leaves_a_usable_host),
        trial(
            "killed::a_killed_start_after_a_power_loss_can_be_repeated",
            a_killed_start_after_a_power_loss_can_be_repeated,
        ),
        trial(
            "killed::a_vm_that_fails_to_start_is_kept_after_a_kill",
            a_vm_that_fails_to_start_is_kept_after_a_kill,
        ),
        trial("killed::a_killed_pull_can_be_repeated", a_killed_pull_can_be_repeated),
        trial(
            "killed::a_killed_refresh_of_a_catalog_can_be_repeated",
            a_killed_refresh_of_a_catalog_can_be_repeated,
        ),
        trial(
            "killed::a_killed_pull_of_a_moved_tag_keeps_used_images",
            a_killed_pull_of_a_moved_tag_keeps_used_images,
        ),
    ];
    cases.chain(others).collect()
}

/// Checks that the tests have reached every fail point, and prints the totals.
pub(crate) fn check_all_points_reached() -> Result<()> {
    let (points, kills) = &*TALLY.lock().unwrap_or_else(PoisonError::into_inner);
    let listed: BTreeSet<_> = banger_engine::fail_points().into_iter().collect();
    ensure!(
        *points == listed,
        "points that no command reaches: {:?}; unknown points: {:?}",
        listed.difference(points),
        points.difference(&listed)
    );
    say(&format!("the daemon was killed {kills} times, at each of its {} points", points.len()));
    Ok(())
}

fn count(point: &str) {
    let mut tally = TALLY.lock().unwrap_or_else(PoisonError::into_inner);
    // Drop the count from the name.
    tally.0.insert(point.split('#').next().unwrap_or_default().to_owned());
    tally.1 += 1;
}

/// Calls `kill` for each point.
fn at_all_points(points: &[String], mut kill: impl FnMut(&str) -> Result<()>) -> Result<()> {
    ensure!(!points.is_empty(), "the command reaches no fail point");
    for point in points {
        count(point);
        kill(point).with_context(|| format!("killed at {point}"))?;
    }
    Ok(())
}

impl Stage {
    fn new(vmm: Vmm) -> Result<Self> {
        Ok(Self { host: Host::new()?, vmm })
    }

    fn kill_at_all_points(&mut self, case: Case) -> Result<()> {
        self.prepare(case.before)?;
        let command = (case.command)(self);
        let KilledRun { points, result } = self.host.run_and_kill(None, &command)?;
        result.context("the daemon died")??;
        at_all_points(&points, |point| self.kill_at(case, &command, point))
    }

    fn kill_at(&mut self, case: Case, command: &Command, point: &str) -> Result<()> {
        self.prepare(case.before)?;
        let before = self.vm()?;
        let boots_before = before.as_ref().map_or(Ok(0), |vm| boots(&self.host, vm.id()))?;
        let acknowledged = matches!(self.host.run_and_kill(Some(point), command)?.result, Some(Ok(_)));
        // A new daemon finishes or undoes what the killed one had begun.
        self.host.send_ok(Command::Idle)?;
        self.host.check_consistency()?;
        match command {
            Command::ImportKernel { .. } | Command::DeleteKernel(_) => {
                return self
                    .check_acknowledged(case.effect, acknowledged, Command::ShowKernel(owned("more")))
                    .map(drop);
            }
            _ if !matches!(
                case.before,
                Before::NoVm | Before::Stopped | Before::Running | Before::Paused
            ) =>
            {
                return match self.check_acknowledged(
                    case.effect,
                    acknowledged,
                    Command::ShowImage(owned("more")),
                )? {
                    Some(image) => self.check_image(&image),
                    None => Ok(()),
                };
            }
            _ => {}
        }
        let after = self.vm()?;
        match case.effect {
            Effect::Creates => ensure!(after.is_some() || !acknowledged, "an acknowledged VM is gone"),
            Effect::Removes => {
                ensure!(
                    after.is_none() || !acknowledged,
                    "a VM exists although its deletion was acknowledged"
                )
            }
            Effect::Keeps => ensure!(
                after.as_ref().map(ShownVm::id) == before.as_ref().map(ShownVm::id),
                "the VM was replaced, or is gone"
            ),
        }
        let Some(vm) = after else { return Ok(()) };
        let runs = vm.is("running") || vm.is("paused");
        if !runs {
            self.host.check_disks(vm.id())?;
        }
        self.prepare(Before::Running)?;
        self.host.send_ok(Command::Exec { vm: owned("box"), argv: vec![owned("true")] })?;
        let boots = boots(&self.host, vm.id())?;
        ensure!(
            boots >= boots_before + u32::from(!runs),
            "the work disk was replaced: {boots_before}, {boots}"
        );
        Ok(())
    }

    /// Checks that an acknowledged command has taken effect, and returns the object if it exists.
    fn check_acknowledged(
        &mut self,
        effect: Effect,
        acknowledged: bool,
        show: Command,
    ) -> Result<Option<Value>> {
        let object = if_found(self.host.send(show)?)?;
        ensure!(
            !acknowledged || object.is_some() == (effect == Effect::Creates),
            "acknowledged, but without effect"
        );
        Ok(object)
    }

    /// Checks an image's file system.
    fn check_image(&self, image: &Value) -> Result<()> {
        ensure!(image["problem"].is_null(), "the image cannot be used: {image}");
        let id = image["id"].as_str().context("id")?;
        check_file_system(&self.host.path("state/images").join(id).join("rootfs.ext4"))
    }

    fn create(&self, start: bool) -> Command {
        Command::CreateVm { name: owned("box"), image: owned("tiny"), vmm: self.vmm, start }
    }

    fn register(&self) -> Command {
        Command::RegisterImage { name: owned("more"), path: self.host.path("more.ext4") }
    }

    fn import_kernel(&self) -> Command {
        Command::ImportKernel { name: owned("more"), path: self.host.path("kernel.tar") }
    }

    /// Returns the VM `box`, if it exists.
    fn vm(&mut self) -> Result<Option<ShownVm>> {
        Ok(if_found(self.host.send(Command::ShowVm(owned("box")))?)?.map(ShownVm))
    }

    fn prepare(&mut self, state: Before) -> Result<()> {
        let commands = match state {
            Before::NoVm | Before::Stopped | Before::Running | Before::Paused => {
                self.commands_to_reach(state)?
            }
            Before::NoMore | Before::Another | Before::File | Before::Registered | Before::Committable => {
                self.remove_more()?;
                match state {
                    Before::Another if !self.has(Command::ShowImage(owned("another")))? => {
                        vec![Command::TagImage { image: owned("tiny"), name: owned("another") }]
                    }
                    Before::File | Before::Registered => {
                        self.copy_tiny_image()?;
                        if state == Before::File { Vec::new() } else { vec![self.register()] }
                    }
                    Before::Committable if self.vm()?.is_none() => {
                        vec![self.create(true), Command::StopVm(owned("box"))]
                    }
                    _ => Vec::new(),
                }
            }
            Before::More => {
                let mut commands = Vec::new();
                if !self.has(Command::ShowImage(owned("more")))? {
                    commands.push(Command::TagImage { image: owned("tiny"), name: owned("more") });
                }
                if !self.has(Command::ShowKernel(owned("more")))? {
                    commands.push(self.import_kernel());
                }
                commands
            }
        };
        commands.into_iter().try_for_each(|command| self.host.send_ok(command).map(drop))
    }

    /// Returns the commands that bring the VM `box` into `state`.
    fn commands_to_reach(&mut self, state: Before) -> Result<Vec<Command>> {
        let vm = self.vm()?;
        let is = |state| vm.as_ref().is_some_and(|vm| vm.is(state));
        let name = || owned("box");
        let mut commands = Vec::new();
        match state {
            Before::NoVm if vm.is_some() => commands.push(Command::DeleteVm(name())),
            Before::Stopped if vm.is_none() => commands.extend([self.create(true), Command::StopVm(name())]),
            Before::Stopped if is("running") || is("paused") => commands.push(Command::StopVm(name())),
            Before::Running | Before::Paused => {
                match &vm {
                    None => commands.push(self.create(true)),
                    Some(_) if is("paused") => commands.push(Command::ResumeVm(name())),
                    Some(_) if !is("running") => commands.push(Command::StartVm(name())),
                    Some(_) => {}
                }
                if state == Before::Paused {
                    commands.push(Command::PauseVm(name()));
                }
            }
            _ => {}
        }
        Ok(commands)
    }

    fn remove_more(&mut self) -> Result<()> {
        if self.has(Command::ShowImage(owned("more")))? {
            self.host.send_ok(Command::DeleteImage(owned("more")))?;
        }
        if self.has(Command::ShowKernel(owned("more")))? {
            self.host.send_ok(Command::DeleteKernel(owned("more")))?;
        }
        Ok(())
    }

    /// Creates the user's file to register.
    fn copy_tiny_image(&mut self) -> Result<()> {
        if self.host.path("more.ext4").exists() { Ok(()) } else { self.host.copy_image("tiny", "more.ext4") }
    }

    fn has(&mut self, show: Command) -> Result<bool> {
        Ok(if_found(self.host.send(show)?)?.is_some())
    }
}

/// Returns an object, or `None` if it does not exist.
fn if_found(result: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match result {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// A VM as the API returns it.
#[derive(Debug)]
struct ShownVm(Value);

impl ShownVm {
    fn id(&self) -> &str {
        self.0["id"].as_str().unwrap_or_default()
    }

    fn is(&self, state: &str) -> bool {
        self.0["state"] == state
    }
}

/// A daemon's first start on a host, which creates the store.
fn a_killed_first_start_leaves_a_usable_host() -> Result<()> {
    let start_first = |point: Option<&str>| {
        let mut host = Host::bare()?;
        let points = host.run_and_kill(point, &Command::Open)?.points;
        host.send_ok(Command::Idle)?;
        host.check_consistency()?;
        anyhow::Ok(points)
    };
    at_all_points(&start_first(None)?, |point| start_first(Some(point)).map(drop))
}

/// A daemon's first start after a power loss, which has lost the row of an image.
fn a_killed_start_after_a_power_loss_can_be_repeated() -> Result<()> {
    const LOST: &str = "0123456789abcdef";
    let mut host = Host::new()?;
    host.send_ok(Command::CreateVm {
        name: owned("box"),
        image: owned("tiny"),
        vmm: Vmm::Firecracker,
        start: true,
    })?;
    let start = |host: &mut Host, point: Option<&str>| {
        std::fs::create_dir(host.path("state/images").join(LOST))?;
        host.reboot(false)?;
        host.run_and_kill(point, &Command::Open)
    };
    let points = start(&mut host, None)?.points;
    at_all_points(&points, |point| {
        host.send_ok(Command::StartVm(owned("box")))?;
        host.remove_set_aside()?;
        start(&mut host, Some(point))?;
        host.send_ok(Command::Idle)?;
        host.check_consistency()?;
        let aside = host.set_aside()?.context("nothing was set aside")?;
        ensure!(aside.join("images").join(LOST).exists(), "the image was removed");
        Ok(())
    })
}

/// A VM that fails to start is kept, so that the user can examine it.
fn a_vm_that_fails_to_start_is_kept_after_a_kill() -> Result<()> {
    let mut host = Host::new()?;
    host.fault(Some((Phase::Boot, Fault::Panics)))?;
    let create =
        Command::CreateVm { name: owned("bad"), image: owned("tiny"), vmm: Vmm::Firecracker, start: true };
    let check_failure = |result: Result<Value, ApiError>| {
        let error = result.err().context("the start of a panicking guest succeeded")?;
        ensure!(error.console.iter().any(|line| line.contains("Kernel panic")), "{error:?}");
        Ok(())
    };
    let KilledRun { points, result } = host.run_and_kill(None, &create)?;
    check_failure(result.context("the daemon died")?)?;
    at_all_points(&points, |point| {
        host.send_ok(Command::DeleteVm(owned("bad")))?;
        host.run_and_kill(Some(point), &create)?;
        host.send_ok(Command::Idle)?;
        host.check_consistency()?;
        let mut vm = if_found(host.send(Command::ShowVm(owned("bad")))?)?;
        if vm.is_none() {
            check_failure(host.send(create.clone())?)?;
            vm = if_found(host.send(Command::ShowVm(owned("bad")))?)?;
        }
        let vm = vm.context("the VM that failed to start was not kept")?;
        ensure!(vm["state"] == "error" && vm["last_error"].is_string(), "{vm}");
        Ok(())
    })
}

/// A download of a signed catalog.
fn a_killed_refresh_of_a_catalog_can_be_repeated() -> Result<()> {
    let mut team = Team::new()?;
    team.configure("catalog.toml")?;
    team.publish("catalog.toml", &["catalog.toml"], "timestamp:1")?;
    let points = team.host.run_and_kill(None, &Command::RefreshCatalogs)?.points;
    at_all_points(&points, |point| {
        team.host.run_and_kill(Some(point), &Command::RefreshCatalogs)?;
        ensure!(team.refresh()?.is_some());
        Ok(())
    })
}

/// A pull of a new image.
fn a_killed_pull_can_be_repeated() -> Result<()> {
    let mut host = Host::new()?;
    let registry = Registry::start(Image::with("content", "new")?)?;
    let name = registry.image();
    let pull = Command::PullImage(name.clone());
    let KilledRun { points, result } = host.run_and_kill(None, &pull)?;
    result.context("the daemon died")??;
    at_all_points(&points, |point| {
        if if_found(host.send(Command::ShowImage(name.clone()))?)?.is_some() {
            host.send_ok(Command::DeleteImage(name.clone()))?;
        }
        host.run_and_kill(Some(point), &pull)?;
        host.send_ok(Command::Idle)?;
        host.check_consistency()?;
        host.send_ok(pull.clone())?;
        host.check_consistency()
    })
}

/// A pull of a tag that has moved: the old image is removed, or kept under another name if a VM uses it.
fn a_killed_pull_of_a_moved_tag_keeps_used_images() -> Result<()> {
    let mut host = Host::new()?;
    let registry = Registry::start(Image::with("content", "old")?)?;
    let (old, new) = (Image::with("content", "old")?, Image::with("content", "new")?);
    let name = registry.image();
    let pull = Command::PullImage(name.clone());
    for used in [false, true] {
        let pull_moved_tag = |host: &mut Host, point: Option<&str>| {
            registry.serve(old.clone());
            host.send_ok(pull.clone())?;
            let before = host.send_ok(Command::ShowImage(name.clone()))?;
            if used {
                let (name, image) = (owned("user"), name.clone());
                host.send_ok(Command::CreateVm { name, image, vmm: Vmm::Firecracker, start: false })?;
            }
            registry.serve(new.clone());
            let killed = host.run_and_kill(point, &pull)?;
            ensure!(killed.result.is_some() == point.is_none(), "{killed:?}");
            host.send_ok(pull.clone())?;
            host.check_consistency()?;
            let after = host.send_ok(Command::ShowImage(name.clone()))?;
            ensure!(after["digest"] != before["digest"], "the image was not updated");
            if used {
                let vm = host.send_ok(Command::ShowVm(owned("user")))?;
                let kept = vm["image"].as_str().context("image")?.to_owned();
                let image = host.send_ok(Command::ShowImage(kept.clone()))?;
                ensure!(image["id"] == before["id"], "the VM uses another image: {kept}");
                host.send_ok(Command::DeleteVm(owned("user")))?;
                host.send_ok(Command::DeleteImage(kept))?;
            }
            host.send_ok(Command::DeleteImage(name.clone()))?;
            anyhow::Ok(killed.points)
        };
        let points = pull_moved_tag(&mut host, None)?;
        at_all_points(&points, |point| pull_moved_tag(&mut host, Some(point)).map(drop))
            .with_context(|| format!("a VM uses the old image: {used}"))?;
    }
    Ok(())
}
