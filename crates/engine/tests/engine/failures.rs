//! VMMs, devices and guests that fail, hang or send nonsense at each stage; and starts that are cancelled.

use std::fs;

use anyhow::{Context, Result, ensure};
use banger_api::{ApiError, CreateVm, ErrorKind, MAX_RESPONSE, OperationEvent, VmState, Vmm, is_hidden};
use banger_engine::{Engine, Events};
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    driver::{
        Command, cancel, create, delete, exec, idle, pause, restart, result_of, small, start, stop, vm,
        wait_for_state, watch,
    },
    host::{Host, VMMS, names_in, run},
    trial,
    vmm::faults::{Fault, Phase},
};

/// Number of VMs that a response can list whatever their guests do.
const LISTED_VMS: usize = 1000;

/// Phases of a start in which a VM can fail.
const START_PHASES: [Phase; 5] = [Phase::Device, Phase::Launch, Phase::Boot, Phase::Call, Phase::Configure];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for vmm in VMMS {
        // The slowest first: these wait for an engine timeout.
        let mut add = |name: &str, test: Box<dyn FnOnce() -> Result<()> + Send>| {
            trials.push(trial(format!("failures::{name}::{vmm:?}"), test));
        };
        add("a_pause_of_a_hung_vmm_times_out", Box::new(move || run(a_pause_of_a_hung_vmm_times_out(vmm))));
        add(
            "garbage_from_the_guest_fails_the_start",
            Box::new(move || run(garbage_from_the_guest_fails_the_start(vmm))),
        );
        add(
            "a_rejected_configuration_fails_the_start",
            Box::new(move || run(a_rejected_configuration_fails_the_start(vmm))),
        );
        add(
            "a_vm_with_an_unresponsive_guest_keeps_running",
            Box::new(move || run(a_vm_with_an_unresponsive_guest_keeps_running(vmm))),
        );
        add(
            "ctrl_alt_del_stops_a_vm_with_a_hung_agent",
            Box::new(move || run(ctrl_alt_del_stops_a_vm_with_a_hung_agent(vmm))),
        );
        add(
            "a_guest_that_ignores_ctrl_alt_del_is_killed",
            Box::new(move || run(a_guest_that_ignores_ctrl_alt_del_is_killed(vmm))),
        );
        add(
            "a_vmm_that_sends_garbage_is_not_adopted",
            Box::new(move || a_vmm_that_sends_garbage_is_not_adopted(vmm)),
        );
        add(
            "a_pause_fails_if_the_vmm_sends_garbage",
            Box::new(move || run(a_pause_fails_if_the_vmm_sends_garbage(vmm))),
        );
        add(
            "a_guest_that_resets_itself_leaves_its_vm_stopped",
            Box::new(move || run(a_guest_that_resets_itself_leaves_its_vm_stopped(vmm))),
        );
        add(
            "a_restart_that_cannot_start_does_not_stop_the_vm",
            Box::new(move || run(a_restart_that_cannot_start_does_not_stop_the_vm(vmm))),
        );
        add(
            "a_partly_deleted_vm_does_not_start",
            Box::new(move || run(a_partly_deleted_vm_does_not_start(vmm))),
        );
        add(
            "a_create_can_be_cancelled_after_any_event",
            Box::new(move || run(a_create_can_be_cancelled_after_any_event(vmm))),
        );
        let phases =
            START_PHASES.into_iter().filter(move |phase| *phase != Phase::Device || vmm == Vmm::Qemu);
        for phase in phases {
            add(
                &format!("a_dead_process_fails_the_start::{phase:?}"),
                Box::new(move || run(a_dead_process_fails_the_start(vmm, phase))),
            );
            add(
                &format!("a_hung_start_can_be_cancelled::{phase:?}"),
                Box::new(move || run(a_hung_start_can_be_cancelled(vmm, phase))),
            );
        }
    }
    trials
}

/// Returns a host with a VM `box` that was never started.
async fn host_with_unstarted_vm(vmm: Vmm) -> Result<(Host, Engine)> {
    let host = Host::new()?;
    let engine = host.open().await?;
    result_of(create(&engine, CreateVm { no_start: true, ..small("box", "tiny", vmm)? })).await?;
    Ok((host, engine))
}

/// Returns a host with a running VM `box` that has a fault.
async fn host_with_running_vm(vmm: Vmm, fault: (Phase, Fault)) -> Result<(Host, Engine)> {
    let host = Host::new()?;
    host.fault(Some(fault))?;
    let engine = host.open().await?;
    result_of(create(&engine, small("box", "tiny", vmm)?)).await?;
    Ok((host, engine))
}

/// Returns the error of an operation that must fail with `kind`.
fn expect_error(result: Result<Value, ApiError>, kind: ErrorKind) -> Result<ApiError> {
    let error = result.err().context("the operation did not fail")?;
    ensure!(error.kind == kind, "{error:?}");
    Ok(error)
}

/// Returns the id of an operation from its first event.
async fn operation_id(events: &mut Events) -> Result<String> {
    match events.recv().await {
        Some(OperationEvent::Started { operation }) => Ok(operation.to_string()),
        other => anyhow::bail!("the operation did not start: {other:?}"),
    }
}

/// A process of the VM dies during a start: the start fails, releases its resources, and the next start works.
async fn a_dead_process_fails_the_start(vmm: Vmm, phase: Phase) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    host.fault(Some((phase, Fault::Dies)))?;
    let error = expect_error(result_of(start(&engine, "box")).await, ErrorKind::Guest)?;
    let role = if phase == Phase::Device { "vsock device" } else { "VMM" };
    ensure!(error.message.contains(&format!("its {role} exited with status 1")), "{error:?}");
    ensure!(vm(&engine, "box")?.state == VmState::Error);
    host.check_consistency()?;
    host.fault(None)?;
    result_of(start(&engine, "box")).await?;
    host.check_consistency()
}

/// A restart whose start would fail is refused before the stop: the VM keeps running.
async fn a_restart_that_cannot_start_does_not_stop_the_vm(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    result_of(start(&engine, "box")).await?;
    let before = vm(&engine, "box")?;
    let images = host.path("state/images");
    let rootfs = images.join(names_in(&images)?.first().context("no image")?).join("rootfs.ext4");
    let aside = host.path("rootfs.aside");
    fs::rename(&rootfs, &aside)?;
    let error = expect_error(result_of(restart(&engine, "box")).await, ErrorKind::Io)?;
    ensure!(error.message.contains("is gone"), "{error:?}");
    let after = vm(&engine, "box")?;
    ensure!(after.state == VmState::Running && after.pid == before.pid, "{after:?}");
    fs::rename(&aside, &rootfs)?;
    result_of(restart(&engine, "box")).await?;
    ensure!(vm(&engine, "box")?.pid != before.pid);
    host.check_consistency()
}

/// After a deletion that failed, some disks are gone: a start would create empty ones.
async fn a_partly_deleted_vm_does_not_start(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    result_of(start(&engine, "box")).await?;
    result_of(stop(&engine, "box", 5)).await?;
    // A path with a zero byte cannot be removed.
    let store = rusqlite::Connection::open(host.path("state/store.db"))?;
    let resource = r#"{"kind":"folder","path":"/a\u0000b"}"#;
    let insert = "INSERT INTO journal (vm_id, scope, resource) VALUES (?1, 'vm', ?2)";
    store.execute(insert, (vm(&engine, "box")?.id.as_str(), resource))?;
    expect_error(result_of(delete(&engine, "box", false)).await, ErrorKind::Io)?;
    for events in [start(&engine, "box"), restart(&engine, "box")] {
        let error = expect_error(result_of(events).await, ErrorKind::Busy)?;
        ensure!(error.message.contains("partly deleted"), "{error:?}");
    }
    store.execute("DELETE FROM journal WHERE resource = ?1", [resource])?;
    result_of(delete(&engine, "box", false)).await?;
    ensure!(vm(&engine, "box").is_err());
    host.check_consistency()
}

/// A start that hangs is cancelled, by request and by a client that disconnects.
async fn a_hung_start_can_be_cancelled(vmm: Vmm, phase: Phase) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    host.fault(Some((phase, Fault::Hangs)))?;
    let hanging = host.hanging()?;
    let mut events = start(&engine, "box")?;
    let id = operation_id(&mut events).await?;
    hanging.recv(&mut [0]).await?;
    cancel(&engine, &id)?;
    expect_error(result_of(Ok(events)).await, ErrorKind::Cancelled)?;
    let now = vm(&engine, "box")?;
    ensure!(now.state == VmState::Stopped && now.last_error.is_none(), "{now:?}");
    host.check_consistency()?;
    let mut events = start(&engine, "box")?;
    operation_id(&mut events).await?;
    hanging.recv(&mut [0]).await?;
    drop(events);
    idle(&engine).await;
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

/// A create is cancelled after its first event, its second, and so on until it ends before the cancel.
async fn a_create_can_be_cancelled_after_any_event(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    for count in 0.. {
        let mut events = create(&engine, small("box", "tiny", vmm)?)?;
        let id = operation_id(&mut events).await?;
        for _ in 0..count {
            match events.recv().await {
                Some(OperationEvent::Done { .. }) => return host.check_consistency(),
                Some(_) => {}
                None => anyhow::bail!("the create ended without a result"),
            }
        }
        // Fails if the operation has just ended.
        let _ = cancel(&engine, &id);
        match result_of(Ok(events)).await {
            // It ended before the cancel.
            Ok(_) => drop(result_of(crate::driver::delete(&engine, "box", true)).await?),
            Err(error) => ensure!(error.kind == ErrorKind::Cancelled, "{error:?}"),
        }
        host.check_nothing_left()?;
    }
    Ok(())
}

async fn garbage_from_the_guest_fails_the_start(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    host.fault(Some((Phase::Call, Fault::Garbles)))?;
    let error = expect_error(result_of(start(&engine, "box")).await, ErrorKind::Guest)?;
    ensure!(error.message.contains("does not follow the agent's protocol"), "{error:?}");
    ensure!(vm(&engine, "box")?.state == VmState::Error);
    host.check_consistency()
}

async fn a_rejected_configuration_fails_the_start(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    host.fault(Some((Phase::Configure, Fault::Garbles)))?;
    let error = expect_error(result_of(start(&engine, "box")).await, ErrorKind::Guest)?;
    let expected = "the guest reports: this guest rejects its configuration hint: run this";
    ensure!(error.message.starts_with(expected) && error.from_guest, "{error:?}");
    ensure!(!error.message.contains(is_hidden), "{error:?}");
    let vm = vm(&engine, "box")?;
    ensure!(vm.state == VmState::Error && vm.last_error.as_deref() == Some(&error.message), "{vm:?}");
    let listing = serde_json::to_vec(&vec![vm; LISTED_VMS])?;
    ensure!(listing.len() < MAX_RESPONSE, "{LISTED_VMS} such VMs are listed in {} bytes", listing.len());
    host.check_consistency()
}

/// The VM keeps running so that the user can examine it, and a stop uses Ctrl-Alt-Del.
async fn a_vm_with_an_unresponsive_guest_keeps_running(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_unstarted_vm(vmm).await?;
    fs::write(host.path("config/config.toml"), "[vm]\nready_timeout = '1s'\n")?;
    host.fault(Some((Phase::Boot, Fault::Hangs)))?;
    expect_error(result_of(start(&engine, "box")).await, ErrorKind::Timeout)?;
    ensure!(vm(&engine, "box")?.state == VmState::Running);
    host.check_consistency()?;
    result_of(stop(&engine, "box", 2)).await?;
    ensure!(vm(&engine, "box")?.state == VmState::Stopped);
    host.check_consistency()
}

/// Stops the VM, by force after `seconds`, and returns the warnings.
async fn stop_and_return_warnings(engine: &Engine, seconds: u64) -> Result<Vec<String>> {
    let mut events = stop(engine, "box", seconds)?;
    let mut warnings = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            OperationEvent::Warning { message } => warnings.push(message),
            OperationEvent::Error { error } => return Err(error.into()),
            _ => {}
        }
    }
    ensure!(vm(engine, "box")?.state == VmState::Stopped);
    Ok(warnings)
}

async fn ctrl_alt_del_stops_a_vm_with_a_hung_agent(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_running_vm(vmm, (Phase::PowerOff, Fault::Hangs)).await?;
    let warnings = stop_and_return_warnings(&engine, 6).await?;
    ensure!(warnings.is_empty(), "Ctrl-Alt-Del did not suffice: {warnings:?}");
    host.check_consistency()
}

async fn a_guest_that_ignores_ctrl_alt_del_is_killed(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_running_vm(vmm, (Phase::Reset, Fault::Hangs)).await?;
    let warnings = stop_and_return_warnings(&engine, 2).await?;
    ensure!(warnings.iter().any(|warning| warning.contains("was killed")), "{warnings:?}");
    host.check_consistency()
}

async fn a_pause_fails_if_the_vmm_sends_garbage(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_running_vm(vmm, (Phase::Control, Fault::Garbles)).await?;
    expect_error(result_of(pause(&engine, "box")).await, ErrorKind::Io)?;
    ensure!(vm(&engine, "box")?.state == VmState::Running);
    exec(&engine, "box", &["true"]).await?;
    host.check_consistency()
}

async fn a_pause_of_a_hung_vmm_times_out(vmm: Vmm) -> Result<()> {
    let (host, engine) = host_with_running_vm(vmm, (Phase::Control, Fault::Hangs)).await?;
    expect_error(result_of(pause(&engine, "box")).await, ErrorKind::Timeout)?;
    ensure!(vm(&engine, "box")?.state == VmState::Running);
    // The agent's power-off needs no control socket.
    ensure!(stop_and_return_warnings(&engine, 60).await?.is_empty());
    host.check_consistency()
}

/// A starting daemon does not adopt a process whose control socket returns garbage.
fn a_vmm_that_sends_garbage_is_not_adopted(vmm: Vmm) -> Result<()> {
    let mut host = Host::new()?;
    host.fault(Some((Phase::Control, Fault::Garbles)))?;
    let (name, image) = ("box".to_owned(), "tiny".to_owned());
    host.send_ok(Command::CreateVm { name: name.clone(), image, vmm, start: true })?;
    host.kill_daemon()?;
    let vm = host.send_ok(Command::ShowVm(name))?;
    let why = vm["last_error"].as_str().unwrap_or_default();
    ensure!(vm["state"] == "error" && why.contains("while bangerd was not running"), "{vm}");
    host.check_consistency()
}

/// A guest that resets itself leaves its VM stopped, not failed.
async fn a_guest_that_resets_itself_leaves_its_vm_stopped(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    result_of(create(&engine, small("box", "tiny", vmm)?)).await?;
    let mut watched = watch(&engine);
    let run_dir = host.path("run/vms").join(vm(&engine, "box")?.id.as_str());
    let (socket, request) = match vmm {
        Vmm::Firecracker => (
            "api.sock",
            "PUT /actions HTTP/1.1\r\nContent-Length: 32\r\n\r\n{\"action_type\":\"SendCtrlAltDel\"}",
        ),
        Vmm::Qemu => ("qmp.sock", "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_reset\"}\n"),
    };
    let mut control = UnixStream::connect(run_dir.join(socket)).await?;
    control.write_all(request.as_bytes()).await?;
    // The VMM may exit before it answers.
    let _ = control.read_to_end(&mut Vec::new()).await;
    let reason = wait_for_state(&mut watched, VmState::Stopped).await?;
    ensure!(reason.is_none(), "{reason:?}");
    host.check_consistency()
}
