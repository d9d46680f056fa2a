//! ssh into a VM whose image need not support it. ssh starts banger as its ProxyCommand, and banger serves SSH on its
//! standard streams with `banger_ssh_server`: [`server`] turns channels into operations of the VM's agent.
//!
//! [`files`] writes the files that ssh needs, [`users_config`] includes them in ssh's configuration, [`proxy`] finds
//! the VM and serves the connection.

mod files;
mod forward;
pub(crate) mod personal;
mod proxy;
mod relay;
mod server;
mod session;
mod shared;
mod stdio;
mod users_config;

pub(crate) use files::{SUFFIX, SshFiles};
pub(crate) use proxy::{Proxy, ensure_running};
pub(crate) use users_config::{Edit, edit, is_installed};
