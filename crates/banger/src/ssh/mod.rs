//! ssh into a VM whose image need not know of it: an SSH server on the standard streams of a process of the user's, which
//! ssh starts as its ProxyCommand, turns channels into operations of the VM's agent.
//!
//! [`files`] are what ssh needs to know of it, [`users_config`] tells ssh where they are, [`proxy`] finds the VM and serves.

mod channel;
mod connection;
mod files;
mod forward;
pub(crate) mod personal;
mod proxy;
mod server;
mod session;
mod shared;
mod signals;
mod stdio;
mod users_config;
mod wire;

pub(crate) use channel::ended;
pub(crate) use files::{SUFFIX, SshFiles};
pub(crate) use proxy::{Proxy, running};
pub(crate) use shared::CHANNELS;
pub(crate) use users_config::{Edit, edit, is_installed};
