//! Sockets in the guest, for the host: connects, listens, and forwards data in both directions.

mod bind;
mod connect;
mod datagrams;
mod names;
mod pending;
mod privileges;
mod refuse;
mod splice;

use std::{io, rc::Rc, time::Duration};

use banger_proto::{Accept, Connect, FailureKind, Listen, Reply};
use tokio::{
    sync::{Notify, Semaphore},
    task::spawn_local,
    time::sleep,
};

pub(crate) use datagrams::datagrams;
pub(crate) use pending::PendingConnections;

use refuse::refuse;

use crate::{
    accept::accept_next,
    children::Children,
    connection::{Incoming, Outgoing},
    failure::Failure,
    users,
};

/// Maximum number of connections of a listener that wait for the host; more wait in the kernel.
const MAX_PENDING: usize = 32;

/// Timeout for the host to accept a connection.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects, and forwards data until both directions have ended.
pub(crate) async fn connect(request: Connect, incoming: Incoming, outgoing: Outgoing, children: &Children) {
    match connect::connect(&request.to, request.user.as_deref(), children).await {
        Ok(socket) => splice::splice(socket, incoming, outgoing).await,
        Err(failure) => refuse(failure, outgoing).await,
    }
}

/// Forwards the data of an accepted connection.
pub(crate) async fn accept(
    request: Accept,
    incoming: Incoming,
    outgoing: Outgoing,
    pending: &PendingConnections,
) {
    match pending.take(request.id) {
        Some(socket) => splice::splice(socket, incoming, outgoing).await,
        None => {
            let failure =
                Failure::new(FailureKind::NotFound, "the connection is no longer waiting to be accepted");
            refuse(failure, outgoing).await;
        }
    }
}

/// Listens, and reports connections to the host, until the host disconnects.
pub(crate) async fn listen(
    request: Listen,
    mut incoming: Incoming,
    mut outgoing: Outgoing,
    children: &Children,
    pending: &PendingConnections,
) {
    let bound = match users::lookup(request.user.as_deref()) {
        Ok(user) => bind::bind(request.at.as_ref(), user, children).await,
        Err(failure) => Err(failure),
    };
    let mut bound = match bound {
        Ok(bound) => bound,
        Err(failure) => return refuse(failure, outgoing).await,
    };
    if outgoing.send_message(&Reply::Listening { at: bound.at.clone() }).await.is_err() {
        return;
    }
    tokio::select! {
        // The host sends nothing more; this waits until it disconnects.
        _ = incoming.next() => {}
        _ = report_connections(&mut bound, &mut outgoing, pending) => {}
    }
}

async fn report_connections(
    bound: &mut bind::Bound,
    outgoing: &mut Outgoing,
    pending: &PendingConnections,
) -> io::Result<()> {
    let slots = Rc::new(Semaphore::new(MAX_PENDING));
    // Connections end elsewhere: a failure is only followed by a pause.
    let ended = Notify::new();
    loop {
        let Ok(slot) = slots.acquire().await else { return Ok(()) };
        let (socket, from) = accept_next(async || bound.accept().await, &ended).await?;
        slot.forget();
        let id = pending.add(socket, &slots);
        outgoing.send_message(&Reply::Incoming { id, from }).await?;
        let pending = pending.clone();
        spawn_local(async move {
            sleep(ACCEPT_TIMEOUT).await;
            pending.discard(id);
        });
    }
}
