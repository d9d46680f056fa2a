//! What a guest's DNS requests get under an egress policy: which names resolve, and which addresses that allows.
//! Nothing here does I/O.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use banger_api::{Destination, DomainName, Egress};

use super::dns::Address;
use crate::{networks::is_refused, rules::Pin};

/// Shortest and longest time for which an address stays allowed after its name was resolved. Programs keep addresses
/// for longer than the shortest times that names have.
const MIN_TIME: Duration = Duration::from_secs(300);
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of addresses of one answer that are allowed; the answer may have more.
const MAX_ADDRESSES: usize = 512;

/// Maximum number of addresses that are remembered, for when the policy changes.
const MAX_KNOWN: usize = 4096;

/// The policy, and the addresses that it allows by their names.
#[derive(Debug)]
pub(super) struct Policy {
    egress: Egress,
    /// Addresses of names, and until when they are allowed.
    known: HashMap<(DomainName, IpAddr), Instant>,
    /// Addresses with their ports that are allowed, and until when.
    pinned: HashMap<(IpAddr, Option<u16>), Instant>,
}

/// What to do with a resolver's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Allow these addresses, then pass it on.
    Pass(Vec<Pin>),
    /// Say that the name does not exist: it has a private address, or one of the host.
    Refuse,
}

impl Policy {
    pub(super) fn new(egress: Egress) -> Self {
        Self { egress, known: HashMap::new(), pinned: HashMap::new() }
    }

    /// Returns whether a name resolves.
    pub(super) fn allows(&self, name: Option<&DomainName>) -> bool {
        match name {
            Some(name) => self.egress.allows_name(name),
            // Not a host's name, such as one of a service with spaces.
            None => matches!(self.egress, Egress::Open | Egress::Learn | Egress::Public),
        }
    }

    /// Returns whether names allow their addresses, so that answers must be judged.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.egress, Egress::List(_))
    }

    /// Judges the addresses in an answer about `name`.
    pub(super) fn judge(
        &mut self,
        name: &DomainName,
        addresses: &[Address],
        host: &[IpAddr],
        now: Instant,
    ) -> Verdict {
        if !self.is_list() {
            return Verdict::Pass(Vec::new());
        }
        if addresses.iter().any(|found| self.is_rebinding(found.address, host)) {
            return Verdict::Refuse;
        }
        self.known.retain(|_, until| *until > now);
        self.pinned.retain(|_, until| *until > now);
        let ports = self.ports(name);
        let mut pins = Vec::new();
        for found in addresses.iter().take(MAX_ADDRESSES) {
            let time = Duration::from_secs(found.ttl.into()).clamp(MIN_TIME, MAX_TIME);
            if self.known.len() < MAX_KNOWN {
                self.known.insert((name.clone(), found.address), now + time);
            }
            for port in &ports {
                pins.extend(self.pin(found.address, *port, now, time));
            }
        }
        Verdict::Pass(pins)
    }

    /// Changes the policy. Returns the addresses of known names to allow, after the sets were emptied.
    pub(super) fn change(&mut self, egress: Egress, host: &[IpAddr], now: Instant) -> Vec<Pin> {
        self.egress = egress;
        self.pinned.clear();
        self.known.retain(|_, until| *until > now);
        let known: Vec<_> =
            self.known.iter().map(|((name, address), until)| (name.clone(), *address, *until)).collect();
        let mut pins = Vec::new();
        for (name, address, until) in known {
            if !self.is_rebinding(address, host) {
                for port in self.ports(&name) {
                    pins.extend(self.pin(address, port, now, until.duration_since(now)));
                }
            }
        }
        pins
    }

    /// Forgets which addresses are allowed already, so that later answers allow them again.
    pub(super) fn forget_pins(&mut self) {
        self.pinned.clear();
    }

    /// Returns the ports that the rules for a name allow; `None` is every port.
    fn ports(&self, name: &DomainName) -> Vec<Option<u16>> {
        let mut ports: Vec<_> =
            self.egress.rules().iter().filter(|rule| rule.to.has_name(name)).map(|rule| rule.port).collect();
        ports.sort_unstable();
        ports.dedup();
        if ports.contains(&None) { vec![None] } else { ports }
    }

    /// Returns the pin for an address, unless it is allowed for at least half of the time already.
    fn pin(&mut self, address: IpAddr, port: Option<u16>, now: Instant, time: Duration) -> Option<Pin> {
        let until = self.pinned.get(&(address, port));
        if until.is_some_and(|until| *until > now + time / 2) {
            return None;
        }
        self.pinned.insert((address, port), now + time);
        let seconds = u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
        Some(Pin { address, port, seconds })
    }

    /// Returns whether a public name's address leads inwards. A list that has the address itself allows it, unless it
    /// is the host's.
    fn is_rebinding(&self, address: IpAddr, host: &[IpAddr]) -> bool {
        let is_listed = self
            .egress
            .rules()
            .iter()
            .any(|rule| matches!(&rule.to, Destination::Network(network) if network.contains(address)));
        host.contains(&address) || (is_refused(address) && !is_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn address(text: &str, ttl: u32) -> Address {
        Address { address: text.parse().unwrap(), ttl }
    }

    fn list() -> Policy {
        Policy::new("pypi.org,*.crates.io:443,*.crates.io:80,10.0.0.0/8".parse().unwrap())
    }

    #[test]
    fn addresses_of_listed_names_are_allowed_for_the_ports_of_their_rules() {
        let (mut policy, now) = (list(), Instant::now());
        let mut judge = |of: &str, to: &str, ttl| policy.judge(&name(of), &[address(to, ttl)], &[], now);
        let pin = |to: &str, port, seconds| Pin { address: to.parse().unwrap(), port, seconds };
        assert_eq!(judge("pypi.org", "203.0.113.1", 60), Verdict::Pass(vec![pin("203.0.113.1", None, 300)]));
        assert_eq!(judge("pypi.org", "203.0.113.1", 60), Verdict::Pass(Vec::new()));
        assert_eq!(
            judge("pypi.org", "203.0.113.1", 3600),
            Verdict::Pass(vec![pin("203.0.113.1", None, 3600)])
        );
        let both = [pin("2001:db8::1", Some(80), 600), pin("2001:db8::1", Some(443), 600)];
        assert_eq!(judge("a.crates.io", "2001:db8::1", 600), Verdict::Pass(both.to_vec()));
        assert!(!policy.allows(Some(&name("crates.io"))) && !policy.allows(None));
        policy.forget_pins();
        let again = policy.judge(&name("pypi.org"), &[address("203.0.113.1", 3600)], &[], now);
        assert_eq!(again, Verdict::Pass(vec![pin("203.0.113.1", None, 3600)]));
    }

    #[test]
    fn names_with_private_addresses_or_the_hosts_are_refused() {
        let (mut policy, now) = (list(), Instant::now());
        let host = ["203.0.113.9".parse().unwrap()];
        for bad in [
            "127.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "203.0.113.9",
        ] {
            let answer = [address("203.0.113.1", 60), address(bad, 60)];
            assert_eq!(policy.judge(&name("pypi.org"), &answer, &host, now), Verdict::Refuse, "{bad}");
        }
        // The list has this network.
        assert!(matches!(
            policy.judge(&name("pypi.org"), &[address("10.0.0.5", 60)], &host, now),
            Verdict::Pass(_)
        ));
    }

    #[test]
    fn a_new_list_allows_known_names_at_once() {
        let (mut policy, now) = (list(), Instant::now());
        policy.judge(&name("pypi.org"), &[address("203.0.113.1", 600)], &[], now);
        policy.judge(&name("a.crates.io"), &[address("203.0.113.2", 600)], &[], now);
        let later = now + Duration::from_secs(400);
        let pins = policy.change("*.crates.io:22".parse().unwrap(), &[], later);
        assert_eq!(pins, [Pin { address: "203.0.113.2".parse().unwrap(), port: Some(22), seconds: 200 }]);
        assert!(
            policy
                .change("*.crates.io".parse().unwrap(), &["203.0.113.2".parse().unwrap()], later)
                .is_empty()
        );
        let after = now + Duration::from_secs(600);
        assert!(policy.change("pypi.org".parse().unwrap(), &[], after).is_empty());
    }

    #[test]
    fn many_addresses_are_bounded() {
        let (mut policy, now) = (list(), Instant::now());
        for block in 0..20_u32 {
            let many: Vec<_> = (0..600_u32)
                .map(|number| Address {
                    address: std::net::Ipv4Addr::from(0xcb00_0000 + block * 1000 + number).into(),
                    ttl: 60,
                })
                .collect();
            let Verdict::Pass(pins) = policy.judge(&name("pypi.org"), &many, &[], now) else { panic!() };
            assert_eq!(pins.len(), MAX_ADDRESSES);
        }
        assert!(policy.known.len() <= MAX_KNOWN);
    }
}
