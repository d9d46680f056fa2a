//! Published ports: the daemon listens on the host, and connects each client to a port of the VM's guest.
//!
//! The VM's record says what is published. While the VM runs, its owner keeps a listener for each port in
//! [`Ports`](registry::Ports). With `publish_all`, the guest's agent reports what listens there ([`watch`]). A listener is a resource of this process alone: the kernel closes it when the daemon
//! ends, and the next daemon opens it again, so it has no entry in the journal.
//!
//! Each accepted connection becomes one connection to the guest's agent ([`guest_socket`]), which connects to
//! `localhost` in the guest. This needs no network, and works with every VMM and with agents that know sockets.

mod bind;
mod guest_port;
mod guest_socket;
mod registry;
mod serve;
mod udp;
mod watch;

pub(crate) use bind::owner_on_loopback;
pub use guest_port::GuestPort;
pub(crate) use registry::Ports;
