//! Serves the host over vsock.

use std::{io, process::ExitCode, rc::Rc, sync::Arc};

use banger_proto::AGENT_PORT;
use tokio::{
    sync::Semaphore,
    task::{LocalSet, spawn_local},
};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::{
    console::say,
    marks::Booted,
    power::{self, Power},
    server::Server,
};

/// Maximum number of connections: each exec holds four of the 1024 descriptors that a process has by default.
const CONNECTIONS: usize = 200;

/// Serves until the guest ends.
pub(crate) fn run(mut booted: Booted, power: Power) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        LocalSet::new().block_on(&runtime, async {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
            booted.mark("listening");
            let ready_port = booted.ready_port;
            if let Power::Own(_) = &power {
                spawn_local(power::on_ctrl_alt_del(power.clone()));
            }
            let server = Server::start(booted, power);
            spawn_local(call_the_host(server.clone(), ready_port));
            accept(server, listener).await
        })
    });
    if let Err(error) = served {
        say(&format!("cannot serve: {error}"));
    }
    ExitCode::FAILURE
}

/// Dials the host once, so that it need not poll for the guest.
async fn call_the_host(server: Rc<Server<Power>>, port: u32) {
    match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await {
        Ok(stream) => server.serve(stream).await,
        // No process on the host waits, for example because the guest restarted by itself.
        Err(error) => say(&format!("cannot connect to the host: {error}")),
    }
}

async fn accept(server: Rc<Server<Power>>, listener: VsockListener) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, from) = listener.accept().await?;
        // Any user of the guest can also dial this port, and would get root's rights.
        if from.cid() != VMADDR_CID_HOST {
            continue;
        }
        let (server, place) = (server.clone(), places.clone().try_acquire_owned());
        spawn_local(async move {
            match place {
                Ok(_place) => server.serve(stream).await,
                Err(_) => say("too many connections: one was refused"),
            }
        });
    }
}
