//! What a VM's network was asked for, from the record of its gateway, and by which processes of the guest.

use std::{collections::HashSet, io, path::PathBuf, pin::pin, sync::Arc};

use banger_api::{ApiError, Flow, ReadFlows};
use banger_net::{gateway, record};
use bytes::Bytes;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{flow_processes::FlowProcesses, logs::is_up, vms::Vms};
use crate::{error::EngineError, logs::Changes, store::NetworkSockets, watch::ByteStream};

/// Parts buffered for a slow client; beyond that, the sender waits.
const BACKLOG: usize = 4;

impl Vms {
    /// Sends the flows of a VM that were recorded, as lines of JSON. With `follow`, each flow that changes is sent again
    /// until the VM is down.
    ///
    /// # Errors
    /// Returns an error if there is no such VM, or its record cannot be read.
    pub async fn flows(self: &Arc<Self>, reference: &str, read: ReadFlows) -> Result<ByteStream, ApiError> {
        // Subscribe before reading the state, so that the VM's end is not missed.
        let events = self.services.store.event_log().follow();
        let vm = self.services.find_vm(reference)?;
        let path = self.services.vm_dir(&vm).flows();
        let sockets = vm.handle.as_ref().and_then(|handle| handle.sockets.clone());
        let failed = EngineError::file("read", &path);
        let changes = Changes::new(path.clone()).map_err(EngineError::file("watch", &path))?;
        let flows = saved_and_read(sockets, path.clone()).await.map_err(failed)?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let follow = read.follow && is_up(vm.state);
        let (vms, processes) = (self.clone(), FlowProcesses::new(self.services.clone(), vm.id.clone()));
        tokio::spawn(async move {
            let ended = async move { vms.wait_until_down(&vm.id, events).await };
            let sending = async {
                let first = lines(flows.clone(), &processes).await;
                if sender.send(first).await.is_err() || !follow {
                    return Ok(());
                }
                send_changes(flows, path, changes, ended, &processes, &sender).await
            };
            tokio::select! {
                sent = sending => if let Err(error) = sent {
                    tracing::warn!(%error, "cannot send the rest of a VM's flows");
                },
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

/// Lets the gateway write what it has not written yet, and reads the record.
async fn saved_and_read(sockets: Option<NetworkSockets>, path: PathBuf) -> io::Result<Vec<Flow>> {
    let reading = spawn_blocking(move || {
        match sockets.map(|sockets| gateway::save_flows(&sockets.gateway)) {
            // It has ended, and has written its record.
            Some(Err(error))
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
            Some(Err(error)) => return Err(error),
            Some(Ok(())) | None => {}
        }
        record::read(&path)
    });
    reading.await.map_err(io::Error::other)?
}

/// Sends flows that are not as they were `sent`, until `ended` completes.
async fn send_changes(
    sent: Vec<Flow>,
    path: PathBuf,
    changes: Changes,
    ended: impl Future<Output = ()>,
    processes: &FlowProcesses,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let (mut ended, mut is_up) = (pin!(ended), true);
    let mut sent: HashSet<_> = sent.into_iter().collect();
    loop {
        // The watch is added before reading, so that no write in between is missed.
        changes.watch_file()?;
        let path = path.clone();
        let flows = spawn_blocking(move || record::read(&path)).await.map_err(io::Error::other)??;
        let changed: Vec<_> = flows.iter().filter(|flow| !sent.contains(flow)).cloned().collect();
        if !changed.is_empty() && sender.send(lines(changed, processes).await).await.is_err() {
            return Ok(());
        }
        if !is_up {
            return Ok(());
        }
        sent = flows.into_iter().collect();
        tokio::select! {
            changed = changes.next() => changed?,
            () = &mut ended => is_up = false,
        }
    }
}

/// Returns flows with their processes, a line of JSON each.
async fn lines(mut flows: Vec<Flow>, processes: &FlowProcesses) -> Bytes {
    processes.add_to(&mut flows).await;
    let mut lines = Vec::new();
    for flow in flows {
        lines.extend(serde_json::to_vec(&flow).unwrap_or_default());
        lines.push(b'\n');
    }
    lines.into()
}
