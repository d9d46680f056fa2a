//! Safe functions for kernel interfaces: the one crate with unsafe code. One file for each topic.
#![allow(unsafe_code)]

pub mod confine;
mod cpu_time;
mod ext4;
pub mod kvm;
mod listeners;
mod memory;
mod session;
mod signal;
mod terminal;
mod vsock;
mod watched;

pub use cpu_time::process_cpu_time;
pub use ext4::grow_ext4;
pub use listeners::{ListeningSocket, Owner, SocketProtocol, listeners, owners};
pub use memory::configure_malloc;
pub use session::{Credentials, lead_session};
pub use signal::signal_of;
pub use terminal::{Terminal, TerminalSide};
pub use vsock::connect_vsock;
pub use watched::Watched;
