//! A VM's network, without privileges.
//!
//! ```text
//! host               pasta's namespace, one for each VM           guest
//! sockets ◀── pasta ◀── uplink ◀── masquerade, rules ◀── tap0 ◀── eth0
//!                                     │
//! resolvers ◀─────── gateway ◀────────┘ DNS
//! ```
//!
//! [`pasta`](https://passt.top) creates a user namespace and a network namespace, and turns connections that leave it
//! into connections of an ordinary process on the host. In it, the *namespace process* ([`namespace`]) creates the tap
//! that the VMM opens, routes between the tap and pasta, and applies the [`rules`], one text of nftables. It has the
//! capabilities of its namespace, and accepts requests of the daemon and the gateway only. The *gateway* ([`gateway`]) runs
//! on the host's side, without capabilities: it answers the guest's DNS requests by asking the host's resolvers, and
//! reports the host's own addresses, which no guest reaches; it records what the guest asks for ([`record`]). Both keep running without the daemon, and end with the VM.
//!
//! [`addresses`]: every VM has the same, because its namespace is its own; so a copy of a running VM can keep them.

pub mod addresses;
pub mod gateway;
mod message;
pub mod namespace;
mod networks;
mod pasta;
pub mod record;
pub mod rules;

pub use message::listen;
pub use pasta::{Missing, Pasta, find, restriction};
