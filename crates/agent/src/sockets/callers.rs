//! Accepted connections that wait for the host to take them.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
};

use tokio::sync::Semaphore;

use crate::stream::Socket;

/// All waiting connections, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Callers(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    waiting: HashMap<u64, Caller>,
}

#[derive(Debug)]
struct Caller {
    socket: Socket,
    /// Free places of its listener, as long as that exists.
    places: Weak<Semaphore>,
}

impl Callers {
    /// Adds `socket` on one of its listener's `places`, and returns its number.
    pub(super) fn wait(&self, socket: Socket, places: &Rc<Semaphore>) -> u64 {
        let mut table = self.0.borrow_mut();
        table.last += 1;
        let number = table.last;
        table.waiting.insert(number, Caller { socket, places: Rc::downgrade(places) });
        number
    }

    /// Removes a connection, and returns it unless its listener has ended.
    pub(super) fn take(&self, number: u64) -> Option<Socket> {
        let caller = self.0.borrow_mut().waiting.remove(&number)?;
        caller.places.upgrade()?.add_permits(1);
        Some(caller.socket)
    }

    /// Closes a connection that the host has not taken.
    pub(super) fn give_up(&self, number: u64) {
        drop(self.take(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Socket {
        Box::pin(tokio::io::duplex(8).0)
    }

    #[test]
    fn a_caller_is_taken_once_and_its_place_is_free_again() {
        let callers = Callers::default();
        let places = Rc::new(Semaphore::new(0));
        let (one, two) = (callers.wait(caller(), &places), callers.wait(caller(), &places));
        assert_ne!(one, two);
        assert!(callers.take(one).is_some() && callers.take(one).is_none());
        assert_eq!(places.available_permits(), 1);
        callers.give_up(two);
        assert_eq!(places.available_permits(), 2);
    }

    #[test]
    fn with_its_listener_a_caller_goes() {
        let callers = Callers::default();
        let places = Rc::new(Semaphore::new(0));
        let number = callers.wait(caller(), &places);
        drop(places);
        assert!(callers.take(number).is_none());
    }
}
