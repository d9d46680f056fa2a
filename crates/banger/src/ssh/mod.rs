//! ssh into a VM whose image need not support it. ssh starts banger as its ProxyCommand, and banger serves SSH on its
//! standard streams: it turns channels into operations of the VM's agent.
//!
//! [`files`] writes the files that ssh needs, [`users_config`] includes them in ssh's configuration, [`proxy`] finds
//! the VM and serves the connection.

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

pub(crate) use channel::join_directions;
pub(crate) use files::{SUFFIX, SshFiles};
pub(crate) use proxy::{Proxy, ensure_running};
pub(crate) use shared::MAX_CHANNELS;
pub(crate) use users_config::{Edit, edit, is_installed};
