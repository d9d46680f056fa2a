//! What the guest has asked its network for, counted. Nothing here does I/O.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use banger_api::{DomainName, Flow, FlowProtocol, FlowVerdict};
use jiff::Timestamp;

use super::packet::Target;

/// Maximum number of flows. Beyond it, the flow that was used least recently is forgotten.
const MAX_FLOWS: usize = 4096;

/// Maximum number of addresses whose names are known. Beyond it, the address that was learnt first is forgotten.
const MAX_NAMES: usize = 8192;

/// Flows have the same key if only their counts and times differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    verdict: FlowVerdict,
    protocol: FlowProtocol,
    name: Option<String>,
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// The flows, and the names of addresses.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: HashMap<Key, Flow>,
    names: HashMap<IpAddr, DomainName>,
    /// The addresses in `names`, in the order in which they were learnt.
    learnt: VecDeque<IpAddr>,
    is_changed: bool,
}

impl Flows {
    /// Goes on with flows that were counted before.
    pub(super) fn new(flows: Vec<Flow>) -> Self {
        let flows = flows.into_iter().take(MAX_FLOWS).map(|flow| (key(&flow), flow)).collect();
        Self { flows, ..Self::default() }
    }

    /// Remembers that `name` has these addresses.
    pub(super) fn learn(&mut self, name: &DomainName, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            if self.names.insert(address, name.clone()).is_none() {
                self.learnt.push_back(address);
            }
            if self.learnt.len() > MAX_NAMES
                && let Some(first) = self.learnt.pop_front()
            {
                self.names.remove(&first);
            }
        }
    }

    /// Counts a connection.
    pub(super) fn count(&mut self, verdict: FlowVerdict, target: Target, at: Timestamp) {
        let Target { protocol, address, port } = target;
        let name = self.names.get(&address).map(|name| name.as_str().to_owned());
        self.add(Key { verdict, protocol, name, address: Some(address), port }, at);
    }

    /// Counts a name that was refused.
    pub(super) fn refuse(&mut self, name: &DomainName, at: Timestamp) {
        let name = Some(name.as_str().to_owned());
        let (verdict, protocol) = (FlowVerdict::Refused, FlowProtocol::Dns);
        self.add(Key { verdict, protocol, name, address: None, port: None }, at);
    }

    fn add(&mut self, key: Key, at: Timestamp) {
        self.is_changed = true;
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.count = flow.count.saturating_add(1);
            flow.last_at = at;
            return;
        }
        if self.flows.len() >= MAX_FLOWS
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last_at)
        {
            let oldest = oldest.0.clone();
            self.flows.remove(&oldest);
        }
        let Key { verdict, protocol, name, address, port } = key.clone();
        // The gateway does not know the guest's processes.
        let (process, pid, count, first_at, last_at) = (None, None, 1, at, at);
        let flow = Flow { verdict, protocol, name, address, port, process, pid, count, first_at, last_at };
        self.flows.insert(key, flow);
    }

    /// Lets the next call of [`changed`](Self::changed) return the flows again.
    pub(super) fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    /// Returns the flows, in the order of their first connections, if they have changed since the last call.
    pub(super) fn changed(&mut self) -> Option<Vec<Flow>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut flows: Vec<_> = self.flows.values().cloned().collect();
        flows.sort_by_key(|flow| (flow.first_at, flow.last_at));
        Some(flows)
    }
}

fn key(flow: &Flow) -> Key {
    let Flow { verdict, protocol, name, address, port, .. } = flow.clone();
    Key { verdict, protocol, name, address, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn target(address: &str, port: u16) -> Target {
        Target { protocol: FlowProtocol::Tcp, address: address.parse().unwrap(), port: Some(port) }
    }

    #[test]
    fn connections_are_counted_by_name_and_destination() {
        let (name, mut flows) = (DomainName::parse("pypi.org").unwrap(), Flows::default());
        assert_eq!(flows.changed(), None);
        flows.count(FlowVerdict::Allowed, target("203.0.113.1", 443), at(1));
        flows.learn(&name, ["203.0.113.1".parse().unwrap()].into_iter());
        flows.count(FlowVerdict::Allowed, target("203.0.113.1", 443), at(2));
        flows.count(FlowVerdict::Allowed, target("203.0.113.1", 443), at(3));
        flows.count(FlowVerdict::Refused, target("203.0.113.1", 443), at(4));
        flows.refuse(&name, at(5));
        let found = flows.changed().unwrap();
        assert_eq!(flows.changed(), None);
        let shown: Vec<_> = found
            .iter()
            .map(|flow| (flow.verdict, flow.name.as_deref(), flow.count, flow.last_at.as_second()))
            .collect();
        let pypi = Some("pypi.org");
        assert_eq!(
            shown,
            [
                (FlowVerdict::Allowed, None, 1, 1),
                (FlowVerdict::Allowed, pypi, 2, 3),
                (FlowVerdict::Refused, pypi, 1, 4),
                (FlowVerdict::Refused, pypi, 1, 5),
            ]
        );
        assert_eq!((found[3].protocol, found[3].address), (FlowProtocol::Dns, None));
        let mut again = Flows::new(found);
        again.refuse(&name, at(9));
        let found = again.changed().unwrap();
        assert_eq!((found.len(), found[3].count, found[3].first_at), (4, 2, at(5)));
    }

    #[test]
    fn flows_and_names_are_bounded() {
        let mut flows = Flows::default();
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0xcb00_0000 + number));
        for number in 0..u32::try_from(MAX_NAMES).unwrap() + 10 {
            let name = DomainName::parse(&format!("n{number}.example")).unwrap();
            flows.learn(&name, [address(number)].into_iter());
            let target = Target { protocol: FlowProtocol::Udp, address: address(number), port: Some(1) };
            flows.count(FlowVerdict::Refused, target, at(number.into()));
        }
        assert_eq!((flows.names.len(), flows.learnt.len()), (MAX_NAMES, MAX_NAMES));
        let kept = flows.changed().unwrap();
        assert_eq!(kept.len(), MAX_FLOWS);
        assert_eq!(kept.last().unwrap().name.as_deref(), Some("n8201.example"));
    }
}
