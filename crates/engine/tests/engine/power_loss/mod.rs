//! Power losses: the calls of a daemon are recorded, and the disk is rebuilt as a power loss could have left it at each
//! moment, with and without the writes that were not synced yet. A daemon that starts on it must find everything that
//! was acknowledged, and nothing that was deleted.

mod disk;
mod trace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command as Process,
};

use anyhow::{Context, Result, ensure};
use banger_api::{ErrorKind, Size, Vmm};
use banger_engine::Engine;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    consistency::{boots, check_file_system},
    driver::{self, Command},
    fixtures,
    host::{Host, names_in, run},
    trial,
};
use disk::{Disk, Snapshot, Write};
use trace::Call;

/// What a command creates or deletes.
type Object = (Kind, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vm,
    Image,
    Kernel,
}

/// A command, and the objects that exist or do not exist once it is acknowledged.
type Step = (Command, Vec<(Object, bool)>);

/// Which of the writes that are not synced survive a power loss.
#[derive(Debug, Clone, Copy)]
enum Survivors {
    Nothing,
    Everything,
    /// Names of files without their content, as after delayed allocation.
    Names,
    Store,
    AllButStore,
    /// Each with probability 1/2.
    Some(u64),
}

const SURVIVORS: [Survivors; 7] = [
    Survivors::Nothing,
    Survivors::Everything,
    Survivors::Names,
    Survivors::Store,
    Survivors::AllButStore,
    Survivors::Some(1),
    Survivors::Some(2),
];

pub(crate) fn trials() -> Vec<Trial> {
    let replay = |name: &str, host: fn() -> Result<Host>, steps: fn(&Host) -> Vec<Step>| {
        let name = format!("power_loss::what_is_acknowledged_survives::{name}");
        trial(name, move || what_is_acknowledged_survives(host()?, steps))
    };
    vec![
        replay("vms", Host::new, vms),
        replay("disks", Host::new, disks),
        replay("images", Host::new, images),
        replay("first_start", Host::bare, first_start),
        trial("power_loss::disks_whose_rows_are_lost_are_set_aside", disks_whose_rows_are_lost_are_set_aside),
        trial(
            "power_loss::directories_of_deleted_objects_do_not_return",
            directories_of_deleted_objects_do_not_return,
        ),
        trial("power_loss::restarted_calls_change_nothing", trace::restarted_calls_change_nothing),
        trial("power_loss::a_damaged_store_id_moves_no_disks", a_damaged_store_id_moves_no_disks),
        trial("power_loss::lost_disks_are_not_replaced_by_empty_ones", || {
            run(lost_disks_are_not_replaced_by_empty_ones())
        }),
    ]
}

fn owned(name: &str) -> String {
    name.to_owned()
}

fn create(name: &str, start: bool) -> Command {
    Command::CreateVm { name: owned(name), image: owned("tiny"), vmm: Vmm::Firecracker, start }
}

/// Creations and deletions of VMs.
fn vms(_: &Host) -> Vec<Step> {
    let vm = |exists| vec![((Kind::Vm, "box"), exists)];
    vec![
        (create("box", true), vm(true)),
        (Command::DeleteVm(owned("box")), vm(false)),
        (create("box", false), vm(true)),
        (Command::DeleteVm(owned("box")), vm(false)),
    ]
}

/// Disks that are created at a start, enlarged, and saved as an image.
fn disks(_: &Host) -> Vec<Step> {
    let image = |exists| ((Kind::Image, "saved"), exists);
    let vm = |exists| ((Kind::Vm, "box"), exists);
    vec![
        (create("box", false), vec![vm(true)]),
        (Command::StartVm(owned("box")), vec![]),
        (Command::StopVm(owned("box")), vec![]),
        (Command::SetVm { name: owned("box"), disk_size: Size::mib(128) }, vec![]),
        (Command::CommitVm { vm: owned("box"), name: owned("saved") }, vec![image(true)]),
        (Command::DeleteImage(owned("saved")), vec![image(false)]),
    ]
}

/// Images and kernels.
fn images(host: &Host) -> Vec<Step> {
    let image = |name, exists| ((Kind::Image, name), exists);
    let kernel = |exists| vec![((Kind::Kernel, "more"), exists)];
    vec![
        (Command::ImportKernel { name: owned("more"), path: host.path("kernel.tar") }, kernel(true)),
        (Command::ImportImage { name: owned("new"), tar: host.path("tiny.tar") }, vec![image("new", true)]),
        (Command::TagImage { image: owned("new"), name: owned("tag") }, vec![image("tag", true)]),
        (
            Command::RenameImage { image: owned("tag"), name: owned("other") },
            vec![image("tag", false), image("other", true)],
        ),
        (Command::DeleteImage(owned("new")), vec![image("new", false)]),
        (
            Command::RegisterImage { name: owned("mine"), path: host.path("mine.ext4") },
            vec![image("mine", true)],
        ),
        (Command::PromoteImage(owned("mine")), vec![]),
        (Command::DeleteKernel(owned("more")), kernel(false)),
    ]
}

/// The first start on a host, which creates the store.
fn first_start(host: &Host) -> Vec<Step> {
    let import = Command::ImportKernel { name: owned("more"), path: host.path("kernel.tar") };
    vec![(Command::Open, vec![]), (import, vec![((Kind::Kernel, "more"), true)])]
}

fn what_is_acknowledged_survives(mut host: Host, steps: fn(&Host) -> Vec<Step>) -> Result<()> {
    let is_new = names_in(&host.path("state"))?.is_empty();
    if is_new {
        fs::write(host.path("kernel.tar"), fixtures::kernel()?)?;
    } else {
        host.copy_image("tiny", "mine.ext4")?;
        host.kill_daemon()?;
    }
    host.link("state", "original")?;
    let steps = steps(&host);
    let commands = steps.iter().map(|(command, _)| command);
    let trace = host.path("").with_extension("trace");
    host.run_under(Process::new("strace").args(trace::arguments(&trace)), commands)?;
    let calls = trace::parse(&fs::read_to_string(&trace)?)?;
    fs::remove_file(&trace)?;
    let disk = Disk::replay(&host.path("state"), &host.path("original"), &calls)?;
    let mut checked = BTreeSet::new();
    for (at, call) in calls.iter().enumerate() {
        // Before a sync, the most writes are uncertain. After an acknowledgement, the most is promised.
        let at = match call {
            Call::Sync { .. } => at,
            call if is_answer(call) => at + 1,
            _ => continue,
        };
        let acknowledged = calls.iter().take(at).filter(|call| is_answer(call)).count();
        for survivors in SURVIVORS {
            let snapshot = disk.after_power_loss(at, |write| survivors.include(at, write));
            if !checked.insert((acknowledged, snapshot.survivors())) {
                continue;
            }
            let expected = expected(&steps, acknowledged);
            check(&host, &snapshot, &expected).with_context(|| match call {
                Call::Sync { path } => format!("{survivors:?} survives before {} is synced", path.display()),
                _ => format!("{survivors:?} survives after answer {acknowledged}"),
            })?;
        }
    }
    ensure!(checked.len() > if is_new { 20 } else { 80 }, "only {} power losses", checked.len());
    Ok(())
}

/// Returns whether a call is the daemon's answer to a command. The KVM probe writes to its standard output too.
fn is_answer(call: &Call) -> bool {
    matches!(call, Call::Output { bytes } if bytes.starts_with(br#"{"Ok""#))
}

impl Survivors {
    fn include(self, at: usize, write: &Write) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Names => !write.is_content(),
            Self::Store => write.of_store,
            Self::AllButStore => !write.of_store,
            Self::Some(seed) => {
                let number = (seed << 40) ^ ((at as u64) << 20) ^ write.at as u64;
                // A step of splitmix64.
                let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 63 == 1
            }
        }
    }
}

/// Returns the objects that must or must not exist once so many steps are acknowledged. Those that the next step changes
/// may exist or not.
fn expected(steps: &[Step], acknowledged: usize) -> BTreeMap<Object, bool> {
    let mut expected: BTreeMap<_, _> =
        steps.iter().take(acknowledged).flat_map(|(_, objects)| objects.iter().copied()).collect();
    for (object, _) in steps.get(acknowledged).into_iter().flat_map(|(_, objects)| objects) {
        expected.remove(object);
    }
    expected
}

/// Starts a daemon on the disk after a power loss, and checks what it finds.
fn check(host: &Host, snapshot: &Snapshot<'_>, expected: &BTreeMap<Object, bool>) -> Result<()> {
    host.remove_all(&["state", "run"])?;
    let state = host.path("state");
    snapshot.write_to(&state)?;
    run(async {
        let engine = host.open().await.context("the daemon does not start")?;
        for ((kind, name), exists) in expected {
            let found = find(&engine, *kind, name).await?.is_some();
            ensure!(found == *exists, "{kind:?} {name}: exists: {found}, expected: {exists}");
        }
        for vm in driver::vms(&engine)? {
            for disk in ["overlay.ext4", "work.ext4"] {
                let is_complete = snapshot.is_complete(&host.vm_dir(vm.id.as_str()).join(disk));
                // A VM that never ran has no disks yet.
                let is_fine = is_complete.unwrap_or(vm.last_used_at.is_none());
                ensure!(is_fine, "{disk} of VM {}: complete: {is_complete:?}", vm.name);
            }
        }
        for (table, file) in [("images", "rootfs.ext4"), ("kernels", "vmlinux")] {
            for id in host.ids(table)? {
                let path = state.join(table).join(&id).join(file);
                let is_complete = snapshot.is_complete(&path);
                ensure!(is_complete == Some(true), "{}: complete: {is_complete:?}", path.display());
            }
        }
        host.check_consistency()?;
        // Disks without a row: those of a deleted VM have returned, or an existing VM's row is lost.
        let aside = host.set_aside()?;
        ensure!(!aside.is_some_and(|aside| aside.join("vms").exists()), "disks were set aside");
        Ok(())
    })
}

/// Returns the object with this name, if it exists.
async fn find(engine: &Engine, kind: Kind, name: &str) -> Result<Option<Value>> {
    let name = name.to_owned();
    let show = match kind {
        Kind::Vm => Command::ShowVm(name),
        Kind::Image => Command::ShowImage(name),
        Kind::Kernel => Command::ShowKernel(name),
    };
    match driver::execute(engine, show).await {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        shown => Ok(Some(shown?)),
    }
}

/// The disk lost synced writes of the store, or its file is an older copy.
fn disks_whose_rows_are_lost_are_set_aside() -> Result<()> {
    // Whether the daemon had stopped before a reboot, if there was one.
    for (stopped, is_kept) in [(Some(false), true), (Some(true), false), (None, false)] {
        let mut host = Host::new()?;
        host.send_ok(Command::Open)?;
        host.kill_daemon()?;
        host.link("state", "older")?;
        let id = host.send_ok(create("box", true))?["id"].as_str().context("id")?.to_owned();
        host.send_ok(Command::StopVm(owned("box")))?;
        host.kill_daemon()?;
        for name in ["store.db", "store.db-wal"] {
            fs::copy(host.path("older").join(name), host.path("state").join(name))?;
        }
        let unfinished = host.path("state/images/0123456789abcdef.partial");
        fs::create_dir(&unfinished)?;
        if let Some(stopped) = stopped {
            host.reboot(stopped)?;
        }
        host.send_ok(Command::Open)?;
        let aside = host.set_aside()?;
        ensure!(aside.is_some() == is_kept, "stopped: {stopped:?}, set aside: {aside:?}");
        if let Some(aside) = aside {
            check_file_system(&aside.join("vms").join(&id).join("work.ext4"))?;
        }
        ensure!(!unfinished.exists());
        host.check_consistency()?;
    }
    Ok(())
}

/// The removal of a deleted object's directory is not synced.
fn directories_of_deleted_objects_do_not_return() -> Result<()> {
    let mut host = Host::new()?;
    host.send_ok(create("box", true))?;
    host.send_ok(Command::TagImage { image: owned("tiny"), name: owned("tag") })?;
    host.send_ok(Command::ImportKernel { name: owned("more"), path: host.path("kernel.tar") })?;
    host.link("state", "before")?;
    host.send_ok(Command::DeleteVm(owned("box")))?;
    host.send_ok(Command::DeleteImage(owned("tag")))?;
    host.send_ok(Command::DeleteKernel(owned("more")))?;
    for name in ["vms", "images", "kernels"] {
        host.remove_all(&[&format!("state/{name}")])?;
        fs::rename(host.path("before").join(name), host.path("state").join(name))?;
    }
    host.reboot(false)?;
    host.send_ok(Command::Open)?;
    host.check_nothing_left()?;
    ensure!(host.set_aside()?.is_none());
    // They are forgotten once they are gone.
    ensure!(host.ids("deleted")?.is_empty());
    Ok(())
}

/// The file `store.id` says whose the directories of disks are.
fn a_damaged_store_id_moves_no_disks() -> Result<()> {
    let mut host = Host::new()?;
    let id = host.send_ok(create("box", true))?["id"].as_str().context("id")?.to_owned();
    host.send_ok(Command::StopVm(owned("box")))?;
    let own = fs::read(host.path("state/store.id"))?;
    for damaged in [&b""[..], &[0; 9], &own[..3], &[0xff; 9]] {
        host.kill_daemon()?;
        fs::write(host.path("state/store.id"), damaged)?;
        host.send_ok(Command::StartVm(owned("box")))?;
        host.send_ok(Command::StopVm(owned("box")))?;
        ensure!(fs::read(host.path("state/store.id"))? == own);
    }
    ensure!(boots(&host, &id)? == 5, "the work disk was replaced");
    host.check_consistency()
}

/// A VM that has run has data on its disks.
async fn lost_disks_are_not_replaced_by_empty_ones() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    driver::execute(&engine, create("box", false)).await?;
    driver::execute(&engine, Command::StartVm(owned("box"))).await?;
    driver::execute(&engine, Command::StopVm(owned("box"))).await?;
    let dir = host.vm_dir(driver::vm(&engine, "box")?.id.as_str());
    for name in ["overlay.ext4", "work.ext4"] {
        let (disk, moved) = (dir.join(name), dir.join("moved"));
        fs::rename(&disk, &moved)?;
        let start = async || driver::execute(&engine, Command::StartVm(owned("box"))).await;
        let refused = start().await.err().context("the VM started without its disk")?;
        ensure!(refused.message.contains("is gone"), "{refused}");
        fs::write(&disk, "")?;
        let refused = start().await.err().context("the VM started with an empty disk")?;
        ensure!(refused.message.contains("is empty"), "{refused}");
        fs::rename(&moved, &disk)?;
    }
    driver::execute(&engine, Command::StartVm(owned("box"))).await?;
    ensure!(boots(&host, driver::vm(&engine, "box")?.id.as_str())? == 2);
    Ok(())
}
