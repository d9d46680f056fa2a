//! A client's process, as a guest affects it.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use rustix::{
    net::sockopt::socket_peercred,
    process::{Pid, Signal, kill_process},
};

use crate::orders::Order;

/// A client's process, as the guest affects it.
#[derive(Debug)]
pub(crate) struct Remote {
    pid: Pid,
    orders: Option<Mutex<UnixStream>>,
}

impl Remote {
    pub(crate) fn new(pid: Pid, orders: Option<UnixStream>) -> Self {
        Self { pid, orders: orders.map(Mutex::new) }
    }

    /// Returns whether the clock of the process at the other end of `stream` can be advanced. It may be a program that
    /// this one has started.
    pub(crate) fn has_clock(&self, stream: &UnixStream) -> bool {
        self.orders.is_some() && socket_peercred(stream).is_ok_and(|peer| peer.pid == self.pid)
    }

    /// Advances its clock, if that is possible.
    pub(crate) fn tick(&self) {
        self.order(&Order::Tick);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(self.pid, signal);
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(crate) fn order(&self, order: &Order) {
        if let Some(orders) = &self.orders {
            let line = format!("{}\n", serde_json::to_string(order).unwrap());
            // As above.
            let _ = orders.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        }
    }
}
