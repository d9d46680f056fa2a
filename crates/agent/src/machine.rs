//! The interface between the agent's protocol and the machine that it runs on.

use std::{collections::BTreeMap, fmt::Debug, future::Future, process::Command, time::Duration};

use banger_proto::{Configure, Exec};

use crate::{configure, exec, failure::Failure, power::Power};

/// The machine that a [`Server`](crate::Server) controls.
pub trait Machine: Debug + 'static {
    /// Applies an identity: names, network, clock, authorized keys.
    fn configure(&self, request: &Configure) -> impl Future<Output = Result<(), Failure>>;

    /// Prepares the program of `request`, without its standard streams, in a process group of its own.
    ///
    /// # Errors
    /// Returns an error if the user, directory or shell does not exist, or an argument is invalid.
    fn command(&self, request: &Exec, env: &BTreeMap<String, String>) -> Result<Command, Failure>;

    /// Writes unwritten data to the disks.
    fn sync(&self);

    /// Powers the machine off in order, within `grace` if given.
    fn power_off(&self, grace: Option<Duration>) -> impl Future<Output = ()>;
}

impl Machine for Power {
    async fn configure(&self, request: &Configure) -> Result<(), Failure> {
        configure::configure(request)
    }

    fn command(&self, request: &Exec, env: &BTreeMap<String, String>) -> Result<Command, Failure> {
        exec::login(request, env)
    }

    fn sync(&self) {
        rustix::fs::sync();
    }

    async fn power_off(&self, grace: Option<Duration>) {
        self.off(grace).await;
    }
}
