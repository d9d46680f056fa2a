//! The namespace process: the program that pasta runs in a VM's namespaces, with all capabilities there.
//!
//! It listens on the socket that is its standard input, for the daemon ([`connect`] and [`Connection`]). The first
//! request, [`Request::Start`], creates the network; its answer carries descriptors: the namespaces, for the VMM to
//! enter, and the gateway's sockets. The gateway has no capability, and asks through a socket of that answer
//! ([`GatewayRequest`]). The process ends with the VMM, which inherits a pipe of it, and then pasta; and when pasta ends.

mod client;
mod links;
mod nft;
mod requests;
mod server;
mod wire;

pub use client::{Connection, connect};
pub(crate) use requests::{Connection as RequestConnection, Requests};
pub use server::main;
pub use wire::{GatewayRequest, GatewaySockets, Reply, Request, Started};
