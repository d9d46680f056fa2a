//! SSH as far as it is spoken here (RFC 4251 to 4254): one algorithm of each kind, no authentication, the server's side.
//! Bytes in, messages out; nothing waits.
//!
//! What comes is from a process of the same user, and what it protects never leaves the host: the key exchange and the
//! encryption are there because ssh does nothing without. They are `ring`'s.

mod cipher;
mod client_key;
mod error;
mod exchange;
mod fields;
mod key;
mod transport;

pub(super) use client_key::ClientKey;
pub(super) use error::WireError;
pub(super) use fields::{Fields, Malformed, Message};
pub(super) use key::HostKey;
pub(super) use transport::Transport;
