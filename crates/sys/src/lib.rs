//! Safe functions for kernel interfaces: the one crate with unsafe code. One file for each topic.
#![allow(unsafe_code)]

pub mod confine;
mod connections;
mod cpu_time;
mod ext4;
mod inherited;
pub mod kvm;
mod listeners;
mod memory;
pub mod netlink;
mod program;
mod session;
mod signal;
mod tap;
mod terminal;
mod vsock;
mod watched;

pub use connections::{Connection, ConnectionRecord};
pub use cpu_time::process_cpu_time;
pub use ext4::grow_ext4;
pub use inherited::take_inherited;
pub use listeners::{ListeningSocket, Owner, SocketProtocol, listeners, owners};
pub use memory::configure_malloc;
pub use program::{find_program, find_program_in};
pub use session::{Credentials, lead_session};
pub use signal::signal_of;
pub use tap::create_tap;
pub use terminal::{Terminal, TerminalSide};
pub use vsock::connect_vsock;
pub use watched::Watched;
