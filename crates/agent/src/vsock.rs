//! Serves the host over vsock.

use std::{io, process::ExitCode, rc::Rc, sync::Arc};

use banger_proto::AGENT_PORT;
use tokio::{
    sync::Semaphore,
    task::{LocalSet, spawn_local},
};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::{
    boot_record::BootRecord,
    console::log,
    power::{self, Power},
    server::Server,
};

/// Maximum number of connections: each exec holds four of the 1024 descriptors that a process has by default.
const MAX_CONNECTIONS: usize = 200;

/// Serves until the guest ends.
pub(crate) fn run(mut record: BootRecord, power: Power) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        LocalSet::new().block_on(&runtime, async {
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT))?;
            record.mark("listening");
            let ready_port = record.ready_port;
            if let Power::Agent(_) = &power {
                spawn_local(power::on_ctrl_alt_del(power.clone()));
            }
            let server = Server::start(record, power);
            spawn_local(dial_host(server.clone(), ready_port));
            accept(server, listener).await
        })
    });
    if let Err(error) = served {
        log(&format!("cannot serve: {error}"));
    }
    ExitCode::FAILURE
}

/// Dials the host once, so that it need not poll for the guest.
async fn dial_host(server: Rc<Server<Power>>, port: u32) {
    match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await {
        Ok(stream) => server.serve(stream).await,
        // No process on the host waits, for example because the guest restarted by itself.
        Err(error) => log(&format!("cannot connect to the host: {error}")),
    }
}

async fn accept(server: Rc<Server<Power>>, listener: VsockListener) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, from) = listener.accept().await?;
        // Any user of the guest can also dial this port, and would get root's rights.
        if from.cid() != VMADDR_CID_HOST {
            continue;
        }
        let (server, slot) = (server.clone(), slots.clone().try_acquire_owned());
        spawn_local(async move {
            match slot {
                Ok(_slot) => server.serve(stream).await,
                Err(_) => log("too many connections: one was refused"),
            }
        });
    }
}
