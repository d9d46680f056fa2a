//! Sockets in the guest, for the host: connecting to one, listening on one, and the bytes that then go both ways.

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

/// Callers of a listener that may wait to be taken; more wait in the kernel.
const WAITING: usize = 32;

/// How long a caller waits to be taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects, and passes bytes on until both ways have ended.
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

/// Passes the bytes of a caller on.
pub(crate) async fn take(request: Take, incoming: Incoming, outgoing: Outgoing, callers: &Callers) {
    match callers.take(request.caller) {
        Some(socket) => splice::splice(socket, incoming, outgoing).await,
        None => {
            let failure = Failure::new(FailureKind::NotFound, "the caller does not wait any more");
            refuse(failure, outgoing).await;
        }
    }
}

/// Listens, and tells the host of callers, until it hangs up.
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
        // It has nothing more to say, and is listened to only for its hanging up.
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
    // A host that has hung up does not want the answer.
    let _ = outgoing.say(&Reply::from(failure)).await;
    outgoing.finish().await;
}
