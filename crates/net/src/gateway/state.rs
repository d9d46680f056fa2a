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
    resolvers::Resolvers,
};
use crate::namespace::{GatewayRequest, Requests};

/// The policy, the host's addresses and resolvers, and the connection to the namespace process.
#[derive(Debug)]
pub(super) struct State {
    pub(super) resolvers: Resolvers,
    policy: Mutex<Policy>,
    host: Mutex<Vec<IpAddr>>,
    requests: Requests,
}

impl State {
    pub(super) fn new(egress: Egress, requests: Requests) -> Self {
        let policy = Mutex::new(Policy::new(egress));
        Self { resolvers: Resolvers::default(), policy, host: Mutex::default(), requests }
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
        if !self.is_list() {
            return true;
        }
        let verdict = self.policy().judge(name, &dns::addresses(answer), &self.host(), Instant::now());
        match verdict {
            Verdict::Pass(pins) if pins.is_empty() => true,
            Verdict::Pass(pins) => self.requests.request(GatewayRequest::Pin(pins)).await,
            Verdict::Refuse => false,
        }
    }

    /// Changes the policy, after its rules were applied.
    pub(super) async fn change(&self, egress: Egress) -> bool {
        let pins = self.policy().change(egress, &self.host(), Instant::now());
        pins.is_empty() || self.requests.request(GatewayRequest::Pin(pins)).await
    }

    /// Sets the host's addresses, which the rules then refuse.
    pub(super) async fn set_host(&self, addresses: Vec<IpAddr>) {
        let is_new = {
            let mut host = self.host();
            let is_new = *host != addresses;
            host.clone_from(&addresses);
            is_new
        };
        if is_new && !self.requests.request(GatewayRequest::HostAddresses(addresses)).await {
            // So that the next change is applied, even if it is none.
            self.host().clear();
        }
    }

    fn policy(&self) -> MutexGuard<'_, Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
