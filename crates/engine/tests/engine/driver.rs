//! All engine API calls that the tests make, and a daemon that executes them as commands.
//!
//! No other file calls [`Engine`]'s methods.

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use banger_api::{
    ApiError, CommitVm, CreateVm, Dirs, ErrorKind, Event, EventKind, ImageName, KillVm, NameImage,
    OperationEvent, PortSelector, Publish, PublishPorts, PullImage, RegisterImage, RestartVm, SetVm, Size,
    StartVm, StopVm, UnpublishPorts, Vm, VmState, Vmm, WatchEvents,
};
use banger_engine::{ByteStream, Engine, Events, Programs, StoreLock, Tar};
use banger_proto::{
    CopyDirection, CopyFiles, Decoder, Exec, ExitStatus, Frame, Greeting, Reply, Request, Stream,
};
use banger_vmm::GuestStream;
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::mpsc,
    task::{JoinSet, yield_now},
};

/// A command to a test daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Does nothing. The daemon has opened the store when it answers.
    Open,
    CreateVm {
        name: String,
        image: String,
        vmm: Vmm,
        start: bool,
    },
    StartVm(String),
    StopVm(String),
    RestartVm(String),
    KillVm(String),
    PauseVm(String),
    ResumeVm(String),
    SetVm {
        name: String,
        disk_size: Size,
    },
    PublishPort {
        vm: String,
        port: Publish,
    },
    DeleteVm(String),
    /// Runs a program in the guest and returns its output.
    Exec {
        vm: String,
        argv: Vec<String>,
    },
    ShowVm(String),
    /// Waits until a VM no longer runs, and returns it.
    VmEnded(String),
    /// Creates `vms` VMs, runs a program in each and deletes them. Returns the number of tasks alive afterwards.
    Soak {
        vms: u32,
        vmm: Vmm,
    },
    ImportImage {
        name: String,
        tar: PathBuf,
    },
    PullImage(String),
    TagImage {
        image: String,
        name: String,
    },
    RenameImage {
        image: String,
        name: String,
    },
    RegisterImage {
        name: String,
        path: PathBuf,
    },
    PromoteImage(String),
    CommitVm {
        vm: String,
        name: String,
    },
    DeleteImage(String),
    ShowImage(String),
    ImportKernel {
        name: String,
        path: PathBuf,
    },
    DeleteKernel(String),
    ShowKernel(String),
    /// Downloads the catalogs at URLs.
    RefreshCatalogs,
    /// Returns the catalogs' images.
    AvailableImages,
    Repair,
    /// Waits until no operation is in progress.
    Idle,
    /// Closes the store, the last step of a graceful exit.
    Close,
}

/// Opens an engine.
pub(crate) async fn open(dirs: Dirs, programs: Programs) -> Result<Engine, ApiError> {
    Engine::open(StoreLock::acquire(dirs).await?, programs).await
}

/// Returns a request for a small VM.
pub(crate) fn small(name: &str, image: &str, vmm: Vmm) -> Result<CreateVm> {
    Ok(CreateVm {
        name: Some(name.parse()?),
        image: Some(image.to_owned()),
        vcpu: Some(1),
        memory: Some(Size::mib(128)),
        disk_size: Some(Size::mib(64)),
        system_overlay_size: Some(Size::mib(64)),
        vmm: Some(vmm),
        ..CreateVm::default()
    })
}

pub(crate) fn create(engine: &Engine, request: CreateVm) -> Result<Events, ApiError> {
    engine.vms.run(request)
}

pub(crate) fn start(engine: &Engine, vm: &str) -> Result<Events, ApiError> {
    engine.vms.start(vm, StartVm::default())
}

/// Stops a VM, by force after `seconds`.
pub(crate) fn stop(engine: &Engine, vm: &str, seconds: u64) -> Result<Events, ApiError> {
    engine.vms.stop(vm, StopVm { timeout_s: Some(seconds) })
}

pub(crate) fn restart(engine: &Engine, vm: &str) -> Result<Events, ApiError> {
    engine.vms.restart(vm, RestartVm::default())
}

pub(crate) fn kill(engine: &Engine, vm: &str) -> Result<Events, ApiError> {
    engine.vms.kill(vm, KillVm::default())
}

pub(crate) fn pause(engine: &Engine, vm: &str) -> Result<Events, ApiError> {
    engine.vms.pause(vm)
}

pub(crate) fn resume(engine: &Engine, vm: &str) -> Result<Events, ApiError> {
    engine.vms.resume(vm)
}

pub(crate) fn delete(engine: &Engine, vm: &str, force: bool) -> Result<Events, ApiError> {
    engine.vms.delete(vm, force)
}

pub(crate) fn publish(engine: &Engine, vm: &str, ports: &[Publish]) -> Result<Events, ApiError> {
    engine.vms.publish(vm, PublishPorts { ports: ports.to_vec(), all: false })
}

pub(crate) fn unpublish(engine: &Engine, vm: &str, ports: &[PortSelector]) -> Result<Events, ApiError> {
    engine.vms.unpublish(vm, UnpublishPorts { ports: ports.to_vec(), all: ports.is_empty() })
}

pub(crate) fn cancel(engine: &Engine, operation: &str) -> Result<(), ApiError> {
    engine.cancel(operation)
}

pub(crate) fn vm(engine: &Engine, vm: &str) -> Result<Vm, ApiError> {
    engine.vms.show(vm)
}

pub(crate) fn vms(engine: &Engine) -> Result<Vec<Vm>, ApiError> {
    engine.vms.list()
}

pub(crate) async fn idle(engine: &Engine) {
    engine.idle().await;
}

/// Subscribes to the engine's events.
pub(crate) fn watch(engine: &Engine) -> ByteStream {
    engine.events(WatchEvents { follow: true, since: None })
}

/// Waits until a VM changes to state `state`, and returns the reason.
pub(crate) async fn wait_for_state(stream: &mut ByteStream, state: VmState) -> Result<Option<String>> {
    loop {
        let line = stream.recv().await.context("the engine is gone")?;
        let event: Event = serde_json::from_slice(&line)?;
        match event.kind {
            EventKind::VmState { to, reason, .. } if to == state => return Ok(reason),
            _ => {}
        }
    }
}

/// Waits for an operation's result.
pub(crate) async fn result_of(events: Result<Events, ApiError>) -> Result<Value, ApiError> {
    let mut events = events?;
    while let Some(event) = events.recv().await {
        match event {
            OperationEvent::Done { result, .. } => return Ok(result),
            OperationEvent::Error { error } => return Err(error),
            _ => {}
        }
    }
    Err(ApiError::new(ErrorKind::Internal, "an operation ended without a result"))
}

/// Runs a program in a VM's guest, which must succeed, and returns its output.
pub(crate) async fn exec(engine: &Engine, vm: &str, argv: &[&str]) -> Result<String> {
    let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
    let output = session(engine, vm, &Request::Exec(Exec { argv, ..Exec::default() })).await?;
    Ok(String::from_utf8(output)?)
}

/// Copies `path` out of a VM's guest, and returns the stream.
pub(crate) async fn copy_out(engine: &Engine, vm: &str, path: &str) -> Result<Vec<u8>> {
    let path = path.as_bytes().to_vec();
    let copy = CopyFiles { direction: CopyDirection::Out, path, follow: false, user: None };
    session(engine, vm, &Request::Copy(copy)).await
}

/// Sends the agent a request that runs a program, which must succeed, and returns its output.
async fn session(engine: &Engine, vm: &str, request: &Request) -> Result<Vec<u8>> {
    let (mut stream, _session) = engine.vms.tunnel(vm, None).await?;
    let mut decoder = Decoder::default();
    let mut next = async |stream: &mut GuestStream| -> Result<Frame> {
        loop {
            if let Some(frame) = decoder.next_frame()? {
                return Ok(frame);
            }
            ensure!(stream.read_buf(decoder.buffer()).await? > 0, "the guest disconnected");
        }
    };
    let _: Greeting = next(&mut stream).await?.parse()?;
    let mut bytes = BytesMut::new();
    Frame::control(request)?.encode(&mut bytes);
    stream.write_all(&bytes).await?;
    let mut output = Vec::new();
    loop {
        match next(&mut stream).await? {
            Frame::Data(Stream::Stdout, bytes) => output.extend(bytes),
            Frame::Data(..) => {}
            frame => match frame.parse()? {
                Reply::Exited { status: ExitStatus::Code(0) } => return Ok(output),
                Reply::Started { .. } => {}
                reply => bail!("the guest answered {reply:?}"),
            },
        }
    }
}

/// Executes `command`.
pub(crate) async fn execute(engine: &Engine, command: Command) -> Result<Value, ApiError> {
    use Command as C;
    match command {
        C::Open => Ok(Value::Null),
        C::CreateVm { name, image, vmm, start } => {
            let request = small(&name, &image, vmm).map_err(internal)?;
            result_of(create(engine, CreateVm { no_start: !start, ..request })).await
        }
        C::StartVm(vm) => result_of(start(engine, &vm)).await,
        C::StopVm(vm) => result_of(engine.vms.stop(&vm, StopVm::default())).await,
        C::RestartVm(vm) => result_of(engine.vms.restart(&vm, RestartVm::default())).await,
        C::KillVm(vm) => result_of(kill(engine, &vm)).await,
        C::PauseVm(vm) => result_of(pause(engine, &vm)).await,
        C::ResumeVm(vm) => result_of(resume(engine, &vm)).await,
        C::SetVm { name, disk_size } => {
            result_of(engine.vms.set(&name, SetVm { disk_size: Some(disk_size), ..SetVm::default() })).await
        }
        C::PublishPort { vm, port } => result_of(publish(engine, &vm, &[port])).await,
        C::DeleteVm(vm) => result_of(delete(engine, &vm, true)).await,
        C::Exec { vm, argv } => {
            let argv: Vec<_> = argv.iter().map(String::as_str).collect();
            Ok(exec(engine, &vm, &argv).await.map_err(internal)?.into())
        }
        C::VmEnded(name) => loop {
            let vm = engine.vms.show_ended(&name).await?;
            if vm.state != VmState::Running {
                return json(vm);
            }
        },
        C::Soak { vms, vmm } => json(soak(engine, vms, vmm).await.map_err(internal)?),
        C::ShowVm(name) => json(vm(engine, &name)?),
        C::ImportImage { name, tar } => {
            let tar = File::open(tar).map_err(internal)?;
            result_of(Ok(engine.images.import(image(&name)?, Tar::<File>::File(tar)))).await
        }
        C::PullImage(name) => {
            result_of(Ok(engine.images.pull(PullImage {
                name: image(&name)?,
                size: None,
                credentials: Vec::new(),
            })))
            .await
        }
        C::TagImage { image: reference, name } => {
            let name = NameImage { name: image(&name)?, replace_built: false };
            result_of(Ok(engine.images.tag(reference, name))).await
        }
        C::RenameImage { image: reference, name } => json(engine.images.rename(&reference, &image(&name)?)?),
        C::RegisterImage { name, path } => {
            let register = RegisterImage { name: image(&name)?, path, kernel: None };
            result_of(Ok(engine.images.register(register))).await
        }
        C::PromoteImage(name) => result_of(Ok(engine.images.promote(name))).await,
        C::CommitVm { vm, name } => {
            let commit = CommitVm { name: image(&name)?, with_home: false, build_key: None };
            result_of(engine.vms.commit(&vm, commit)).await
        }
        C::DeleteImage(name) => json(engine.images.delete(&name)?),
        C::ShowImage(name) => json(engine.images.show(&name)?),
        C::ImportKernel { name, path } => {
            let file = File::open(path).map_err(internal)?;
            result_of(Ok(engine.kernels.import(name.parse().map_err(internal)?, file))).await
        }
        C::DeleteKernel(name) => json(engine.kernels.delete(&name)?),
        C::ShowKernel(name) => json(engine.kernels.show(&name)?),
        C::RefreshCatalogs => result_of(Ok(engine.catalogs.refresh())).await,
        C::AvailableImages => json(engine.images.available()?),
        C::Repair => json(engine.repair().await?),
        C::Idle => {
            idle(engine).await;
            Ok(Value::Null)
        }
        C::Close => {
            engine.close();
            Ok(Value::Null)
        }
    }
}

/// Number of concurrent VMs.
const CONCURRENT_VMS: u32 = 4;

async fn soak(engine: &Engine, vms: u32, vmm: Vmm) -> Result<usize> {
    let mut workers = JoinSet::new();
    for worker in 0..CONCURRENT_VMS {
        let engine = engine.clone();
        workers.spawn(async move {
            for number in (worker..vms).step_by(CONCURRENT_VMS as usize) {
                let name = format!("box-{number}");
                result_of(create(&engine, small(&name, "tiny", vmm)?)).await?;
                let output = exec(&engine, &name, &["sh", "-c", "echo $HOSTNAME"]).await?;
                ensure!(output.trim() == name, "the host name of {name} is {output}");
                result_of(delete(&engine, &name, true)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    idle(engine).await;
    // Let tasks finish that are about to end.
    for _ in 0..100 {
        yield_now().await;
    }
    Ok(Handle::current().metrics().num_alive_tasks())
}

fn image(name: &str) -> Result<ImageName, ApiError> {
    name.parse().map_err(internal)
}

fn json(value: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(internal)
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Internal, format!("{error:#}"))
}

/// Runs a test daemon: reads commands from standard input and writes results, one line of JSON each.
pub(crate) async fn serve(dirs: Dirs, programs: Programs) -> Result<()> {
    let (commands, mut waiting) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // The receiver lives as long as the process.
            let _ = commands.send(line);
        }
    });
    let opened = open(dirs, programs).await;
    while let Some(command) = waiting.recv().await {
        let answer = match &opened {
            Ok(engine) => execute(engine, serde_json::from_str(&command)?).await,
            Err(error) => Err(error.clone()),
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}
