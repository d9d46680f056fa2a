//! Serves the host over vsock.

use std::{fs::OpenOptions, io, os::fd::OwnedFd, process::ExitCode};

use banger_proto::{AGENT_PORT, CALL_PORT};
use banger_sys::connect_vsock;
use rustix::{
    fs::{FileType, fstat},
    stdio::{dup2_stdout, stdout},
};
use tokio::task::{LocalSet, spawn_local};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::{
    boot_record::BootRecord,
    callers,
    console::{fail, log},
    oom,
    power::Power,
    saved::Saved,
    server::Server,
};

/// Dials the host once, so that it need not poll for the guest. PID 1 does it before anything of the image runs: where
/// the host does not see the port of the call, no other program can call before the agent.
pub(crate) fn call_host(port: u32) -> Option<OwnedFd> {
    let called = connect_vsock(CALL_PORT, VMADDR_CID_HOST, port);
    // No process on the host waits, for example because the guest restarted by itself.
    called.map_err(|error| log(&format!("cannot connect to the host: {error}"))).ok()
}

/// Serves until the guest ends.
pub(crate) fn run(mut record: BootRecord) -> ExitCode {
    oom::protect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        LocalSet::new().block_on(&runtime, async {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
            record.mark("listening");
            let server = Server::with_saved(record, Power::Init, Saved::inherited()?);
            let (call, first) = (take_call()?, server.clone());
            spawn_local(async move {
                if let Some(call) = call {
                    first.serve(VsockStream::from(call)).await;
                }
                // Not before the guest is ready, which this would delay.
                first.record_connections().await;
            });
            Err(callers::serve(&server, async || accept(&listener).await).await)
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot serve: {error}")),
    }
}

/// Accepts a connection. Returns `None` if it is not the host's: processes of the guest can dial this port too, and
/// would get root's rights.
async fn accept(listener: &VsockListener) -> io::Result<Option<VsockStream>> {
    let (stream, from) = std::future::poll_fn(|context| listener.poll_accept(context)).await?;
    Ok((from.cid() == VMADDR_CID_HOST).then_some(stream))
}

/// Returns the connection to the host that this process has inherited as its standard output, if it has one.
pub(crate) fn take_call() -> io::Result<Option<OwnedFd>> {
    if FileType::from_raw_mode(fstat(stdout())?.st_mode) != FileType::Socket {
        return Ok(None);
    }
    let call = rustix::io::fcntl_dupfd_cloexec(stdout(), 3)?;
    dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
    Ok(Some(call))
}
