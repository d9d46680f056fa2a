//! The shortest list of destinations that covers what a VM has reached.

use std::collections::{BTreeMap, BTreeSet};

use banger_api::{Destination, DomainName, EgressRule, Flow, FlowVerdict, Network};

/// Number of rules up to which each name has its own. A rule for all names below a domain allows more than was needed,
/// so it is only for a list that is too long to read.
const READABLE: usize = 20;

/// Smallest number of names that one rule for their domain replaces.
const MIN_NAMES: usize = 3;

/// Number of ports of one destination above which its rule has none.
const MAX_PORTS: usize = 3;

/// Returns rules that allow what was allowed.
pub(super) fn suggest(flows: &[Flow]) -> Vec<EgressRule> {
    let mut destinations: BTreeMap<Destination, BTreeSet<Option<u16>>> = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.verdict == FlowVerdict::Allowed) {
        let name = flow.name.as_deref().and_then(|name| DomainName::parse(name).ok()).map(Destination::Name);
        let address = || Some(Destination::Network(single(flow.address?)?));
        if let Some(to) = name.or_else(address) {
            destinations.entry(to).or_default().insert(flow.port);
        }
    }
    let mut rules: BTreeSet<EgressRule> = BTreeSet::new();
    for (to, ports) in destinations {
        if ports.contains(&None) || ports.len() > MAX_PORTS {
            rules.insert(EgressRule { to, port: None });
        } else {
            rules.extend(ports.into_iter().map(|port| EgressRule { to: to.clone(), port }));
        }
    }
    while rules.len() > READABLE
        && let Some((domain, port, names)) = largest_domain(&rules)
    {
        rules.retain(|rule| !names.contains(rule));
        rules.insert(EgressRule { to: Destination::Below(domain), port });
    }
    rules.into_iter().collect()
}

fn single(address: std::net::IpAddr) -> Option<Network> {
    Network::new(address, if address.is_ipv4() { 32 } else { 128 })
}

/// Returns the domain that most rules for names with one port are below, with that port and the rules.
fn largest_domain(rules: &BTreeSet<EgressRule>) -> Option<(DomainName, Option<u16>, Vec<EgressRule>)> {
    let mut domains: BTreeMap<(DomainName, Option<u16>), Vec<EgressRule>> = BTreeMap::new();
    for rule in rules {
        if let Destination::Name(name) = &rule.to
            && let Some(domain) = domain(name)
        {
            domains.entry((domain, rule.port)).or_default().push(rule.clone());
        }
    }
    let (at, names) = domains.into_iter().max_by_key(|(_, names)| names.len())?;
    (names.len() >= MIN_NAMES).then_some((at.0, at.1, names))
}

/// Returns the domain that a name is in; `None` if anybody can have a name in it, as in `com` or `co.uk`.
fn domain(name: &DomainName) -> Option<DomainName> {
    let (_, parent) = name.as_str().split_once('.')?;
    let labels: Vec<_> = parent.split('.').collect();
    // Below the domain of a country, those that are as short are its registries' own.
    let is_registry = match labels.as_slice() {
        [_] => true,
        [second, country] => country.len() == 2 && second.len() <= 3,
        _ => false,
    };
    (!is_registry).then(|| DomainName::parse(parent).ok())?
}

#[cfg(test)]
mod tests {
    use banger_api::{Egress, FlowProtocol};
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn flow(verdict: FlowVerdict, name: Option<&str>, address: &str, port: Option<u16>) -> Flow {
        let (first_at, last_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let (name, address) = (name.map(str::to_owned), address.parse().ok());
        let (protocol, process, pid, count) = (FlowProtocol::Tcp, None, None, 1);
        Flow { verdict, protocol, name, address, port, process, pid, count, first_at, last_at }
    }

    fn allowed(name: &str, port: u16) -> Flow {
        flow(FlowVerdict::Allowed, Some(name), "203.0.113.1", Some(port))
    }

    fn text(flows: &[Flow]) -> String {
        suggest(flows).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_come_before_addresses_and_what_was_refused_is_left_out() {
        let flows = [
            allowed("pypi.org", 443),
            allowed("pypi.org", 443),
            allowed("pypi.org", 80),
            flow(FlowVerdict::Allowed, None, "10.0.0.5", Some(5432)),
            flow(FlowVerdict::Allowed, None, "2001:db8::1", Some(22)),
            flow(FlowVerdict::Allowed, None, "10.0.0.6", None),
            flow(FlowVerdict::Refused, None, "10.0.0.7", Some(1)),
            flow(FlowVerdict::Unreachable, None, "10.0.0.8", Some(1)),
        ];
        assert_eq!(text(&flows), "pypi.org:80 pypi.org:443 10.0.0.5:5432 10.0.0.6 [2001:db8::1]:22");
        let many: Vec<_> = (1..5).map(|port| allowed("a.example", port)).collect();
        assert_eq!(text(&many), "a.example");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn only_a_long_list_has_rules_for_whole_domains() {
        let names = |count: u16, domain: &str| -> Vec<_> {
            (0..count).map(|number| allowed(&format!("n{number}.{domain}"), 443)).collect()
        };
        assert_eq!(suggest(&names(20, "example.com")).len(), 20);
        let many =
            [names(15, "mirror.example.com"), names(6, "example.org"), names(2, "example.net")].concat();
        assert_eq!(
            text(&many),
            "n0.example.net:443 n0.example.org:443 n1.example.net:443 n1.example.org:443 n2.example.org:443 \
             n3.example.org:443 n4.example.org:443 n5.example.org:443 *.mirror.example.com:443"
        );
        // Names below these belong to different owners.
        for domain in ["com", "co.uk"] {
            assert_eq!(suggest(&names(30, domain)).len(), 30);
        }
    }

    proptest! {
        #[test]
        fn a_suggested_list_is_valid_and_covers_everything(
            picked in proptest::collection::vec((0..40_u16, 0..4_usize, 1..6_u16), 1..200)
        ) {
            let domains = ["example.com", "b.example.com", "co.uk", "example.org"];
            let flows: Vec<_> = picked
                .iter()
                .map(|(number, domain, port)| allowed(&format!("n{number}.{}", domains[*domain]), *port))
                .collect();
            let rules = suggest(&flows);
            let text: Vec<_> = rules.iter().map(ToString::to_string).collect();
            prop_assert_eq!(text.join(",").parse::<Egress>().unwrap(), Egress::List(rules.clone()));
            for flow in flows {
                let name = DomainName::parse(flow.name.as_deref().unwrap()).unwrap();
                let covers = |rule: &EgressRule| {
                    rule.to.has_name(&name) && (rule.port.is_none() || rule.port == flow.port)
                };
                prop_assert!(rules.iter().any(covers), "{}", name.as_str());
            }
        }
    }
}
