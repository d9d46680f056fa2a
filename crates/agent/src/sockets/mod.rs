//! Sockets in the guest, for the host: connects, listens, and forwards data in both directions.

mod bind;
mod callers;
mod connect;
mod names;
mod rights;
mod splice;

use std::{io, rc::Rc, time::Duration};

use banger_proto::{Connect, FailureKind, Listen, Reply, Take};
use tokio::{sync::Semaphore, task::spawn_local, time::sleep};

pub(crate) use callers::Callers;

use crate::{
    children::Children,
    connection::{Incoming, Outgoing},
    failure::Failure,
    users,
};

/// Maximum number of connections of a listener that wait for the host; more wait in the kernel.
const WAITING: usize = 32;

/// Timeout for the host to take a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects, and forwards data until both directions have ended.
pub(crate) async fn connect(request: Connect, incoming: Incoming, outgoing: Outgoing, children: &Children) {
    let socket = match users::of_guest(request.user.as_deref()) {
        Ok(user) => connect::connect(&request.to, user, children).await,
        Err(failure) => Err(failure),
    };
    match socket {
        Ok(socket) => splice::splice(socket, incoming, outgoing).await,
        Err(failure) => refuse(failure, outgoing).await,
    }
}

/// Forwards the data of an accepted connection.
pub(crate) async fn take(request: Take, incoming: Incoming, outgoing: Outgoing, callers: &Callers) {
    match callers.take(request.caller) {
        Some(socket) => splice::splice(socket, incoming, outgoing).await,
        None => {
            let failure = Failure::new(FailureKind::NotFound, "the caller is no longer waiting");
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
    callers: &Callers,
) {
    let bound = match users::of_guest(request.user.as_deref()) {
        Ok(user) => bind::bind(request.at.as_ref(), user, children).await,
        Err(failure) => Err(failure),
    };
    let mut bound = match bound {
        Ok(bound) => bound,
        Err(failure) => return refuse(failure, outgoing).await,
    };
    if outgoing.say(&Reply::Listening { at: bound.at.clone() }).await.is_err() {
        return;
    }
    tokio::select! {
        // The host sends nothing more; this waits until it disconnects.
        _ = incoming.next() => {}
        _ = tell_of_callers(&mut bound, &mut outgoing, callers) => {}
    }
}

async fn tell_of_callers(
    bound: &mut bind::Bound,
    outgoing: &mut Outgoing,
    callers: &Callers,
) -> io::Result<()> {
    let places = Rc::new(Semaphore::new(WAITING));
    loop {
        let Ok(place) = places.acquire().await else { return Ok(()) };
        let (socket, from) = bound.accept().await?;
        place.forget();
        let caller = callers.wait(socket, &places);
        outgoing.say(&Reply::Called { caller, from }).await?;
        let callers = callers.clone();
        spawn_local(async move {
            sleep(PATIENCE).await;
            callers.give_up(caller);
        });
    }
}

async fn refuse(failure: Failure, mut outgoing: Outgoing) {
    // The host may have closed the connection.
    let _ = outgoing.say(&Reply::from(failure)).await;
    outgoing.finish().await;
}
