//! Accepted connections that wait for the host to accept them.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
};

use tokio::sync::Semaphore;

use crate::stream::Socket;

/// All waiting connections, by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct PendingConnections(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    waiting: HashMap<u64, PendingConnection>,
}

#[derive(Debug)]
struct PendingConnection {
    socket: Socket,
    /// Free slots of its listener, as long as that exists.
    slots: Weak<Semaphore>,
}

impl PendingConnections {
    /// Adds `socket` on one of its listener's `slots`, and returns its id.
    pub(super) fn add(&self, socket: Socket, slots: &Rc<Semaphore>) -> u64 {
        let mut table = self.0.borrow_mut();
        table.last += 1;
        let id = table.last;
        table.waiting.insert(id, PendingConnection { socket, slots: Rc::downgrade(slots) });
        id
    }

    /// Removes a connection, and returns it unless its listener has ended.
    pub(super) fn take(&self, id: u64) -> Option<Socket> {
        let connection = self.0.borrow_mut().waiting.remove(&id)?;
        connection.slots.upgrade()?.add_permits(1);
        Some(connection.socket)
    }

    /// Closes a connection that the host has not accepted.
    pub(super) fn discard(&self, id: u64) {
        drop(self.take(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        Box::pin(tokio::io::duplex(8).0)
    }

    #[test]
    fn taking_a_pending_connection_removes_it_and_frees_its_slot() {
        let pending = PendingConnections::default();
        let slots = Rc::new(Semaphore::new(0));
        let (one, two) = (pending.add(socket(), &slots), pending.add(socket(), &slots));
        assert_ne!(one, two);
        assert!(pending.take(one).is_some() && pending.take(one).is_none());
        assert_eq!(slots.available_permits(), 1);
        pending.discard(two);
        assert_eq!(slots.available_permits(), 2);
    }

    #[test]
    fn pending_connections_end_with_their_listener() {
        let pending = PendingConnections::default();
        let slots = Rc::new(Semaphore::new(0));
        let id = pending.add(socket(), &slots);
        drop(slots);
        assert!(pending.take(id).is_none());
    }
}
