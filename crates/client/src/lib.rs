//! bangerd's client: finds or starts the daemon, makes typed calls, follows event streams, opens tunnels; and, through
//! a tunnel, speaks the agent's protocol. Knows no terminal.

mod calls;
mod connect;
mod events;
mod exec;
mod http;
mod passing;

pub use calls::Client;
pub use events::Events;
pub use exec::{ExecInput, ExecOutput, Output, exec};
pub use http::Tunnel;
