//! Client of bangerd: finds or starts the daemon, makes typed calls, follows event streams, and opens tunnels.
//! Through a tunnel it speaks the agent's protocol. It knows nothing about terminals.

mod byte_stream;
mod calls;
mod client;
mod connect;
mod copy;
mod doctor;
mod events;
mod exec;
mod fd_passing;
mod http;
mod json_lines;
mod protocol;
mod request;
mod socket;
mod window;

pub use banger_files::{PackError, Source};
pub use byte_stream::ByteStream;
pub use client::Client;
pub use copy::{CopyEvent, Destination, FromGuest, GuestPath, Origin, ToGuest, copy_in, copy_out, exchange};
pub use events::Events;
pub use exec::{Agent, ExecInput, ExecOutput, Output, agent, exec};
pub use http::Tunnel;
pub use json_lines::JsonLines;
pub use request::{AgentResponse, inspect, ping, ports};
pub use socket::{GuestListener, PendingConnection, SocketEvent, SocketOutput, accept, connect, listen};
