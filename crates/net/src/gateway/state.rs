//! What the gateway's tasks share.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use banger_api::{DomainName, Egress};

use super::{
    dns,
    policy::{Policy, Verdict},
    recorder::Recorder,
    resolvers::Resolvers,
};
use crate::namespace::{GatewayRequest, Requests};

/// The host's addresses and routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostNetwork {
    pub(super) addresses: Vec<IpAddr>,
    /// Destinations of the routes, with the lengths of their prefixes.
    pub(super) routes: Vec<(IpAddr, u8)>,
}

/// The policy, the host's addresses and resolvers, and the connection to the namespace process.
#[derive(Debug)]
pub(super) struct State {
    pub(super) resolvers: Resolvers,
    pub(super) recorder: Recorder,
    policy: Mutex<Policy>,
    host: Mutex<HostNetwork>,
    requests: Requests,
    /// Addresses at which the guest reaches services of the host.
    pub(super) services: Vec<IpAddr>,
}

impl State {
    pub(super) fn new(egress: Egress, requests: Requests, recorder: Recorder, services: Vec<IpAddr>) -> Self {
        let policy = Mutex::new(Policy::new(egress));
        Self { resolvers: Resolvers::default(), recorder, policy, host: Mutex::default(), requests, services }
    }

    /// Returns whether a name resolves.
    pub(super) fn allows(&self, name: Option<&DomainName>) -> bool {
        self.policy().allows(name)
    }

    /// Returns whether the policy is a list.
    pub(super) fn is_list(&self) -> bool {
        self.policy().is_list()
    }

    /// Allows the addresses in an answer about `name`. Returns false if the guest must not have the answer.
    pub(super) async fn allow_addresses(&self, name: &DomainName, answer: &[u8]) -> bool {
        let addresses = dns::addresses(answer);
        self.recorder.learn(name, &addresses);
        if !self.is_list() {
            return true;
        }
        let verdict = self.policy().judge(name, &addresses, &self.host().addresses.clone(), Instant::now());
        match verdict {
            Verdict::Pass(pins) if pins.is_empty() => true,
            Verdict::Pass(pins) => {
                let is_done = self.requests.request(GatewayRequest::Pin(pins)).await;
                if !is_done {
                    // None of them is allowed, as when the set is full: the next answer tries again.
                    self.policy().forget_pins();
                }
                is_done
            }
            Verdict::Refuse => false,
        }
    }

    /// Changes the policy, after its rules were applied.
    pub(super) async fn change(&self, egress: Egress) -> bool {
        let pins = self.policy().change(egress, &self.host().addresses.clone(), Instant::now());
        pins.is_empty() || self.requests.request(GatewayRequest::Pin(pins)).await
    }

    /// Sets the host's addresses, which the rules then refuse, and its routes.
    pub(super) async fn set_host(&self, network: HostNetwork) {
        if *self.host() == network {
            return;
        }
        self.host().clone_from(&network);
        let HostNetwork { addresses, routes } = network;
        if !self.requests.request(GatewayRequest::Host { addresses, routes }).await {
            // So that the next report is applied, even if nothing has changed.
            *self.host() = HostNetwork::default();
        }
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, HostNetwork> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
