//! A subset of SSH (RFC 4251 to 4254): the server's side, one algorithm of each kind, no authentication. It turns
//! bytes into messages and never waits.
//!
//! The peer is a process of the same user, and the data never leaves the host. Key exchange and encryption exist only
//! because ssh requires them; `ring` implements them.

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
