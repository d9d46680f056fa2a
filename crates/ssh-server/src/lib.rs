//! The server side of SSH (RFC 4251 to 4254), for programs on the same host.
//!
//! [`serve`] serves one connection. The peer is a process of the same user, and the data never leaves the host: every
//! user name is accepted, and key exchange and encryption exist only because ssh requires them.
//!
//! The core does no I/O and never waits: `transport` turns bytes into messages, `connection` turns messages into
//! events and commands into messages. `serve` connects them to streams and to a [`Handler`].

mod channel;
mod cipher;
mod client_key;
mod connection;
mod error;
mod exchange;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
mod host_key;
mod requests;
mod serve;
mod signal;
mod transport;

pub use channel::{Channel, Closed, Link, Reader, Writer};
pub use client_key::{ClientKey, InvalidKey};
pub use connection::MAX_PACKET;
pub use error::Error;
pub use host_key::HostKey;
pub use requests::{
    Address, Control, Exit, GlobalAnswer, GlobalRequest, Part, Refusal, Request, Source, Stream, Target,
    TerminalSize,
};
pub use serve::{Decision, Handler, TooManyRequests, serve};
