//! The rules of a VM's network: one text of nftables, which `nft` applies as one transaction.
//!
//! The same text creates the rules and replaces them: chains are emptied and filled, sets that other requests fill are
//! kept, except the addresses of names. Connections carry the number of the rules that allowed them as their mark. So
//! when the rules change, each open connection is judged again.

use std::{fmt::Write as _, net::IpAddr};

use banger_api::{Destination, Egress, EgressRule, HostPorts, Network};

use crate::addresses::{GATEWAY, GATEWAY_V6, GUEST, GUEST_LINK_LOCAL, GUEST_V6, TAP, UPLINK};
use crate::networks::{NEVER, NEVER_V6, PRIVATE, PRIVATE_V6};

/// Maximum number of open connections of a guest, and of those to its gateway's resolver: more than builds and crawlers
/// have, few enough that those of many VMs fit into the host's table, which all namespaces share the memory of.
const MAX_CONNECTIONS: u32 = 8192;

/// Maximum number of a guest's connections to services of the host. The gateway has a lower limit for those that it
/// serves; this one keeps others out of the host's table.
const MAX_SERVICE_CONNECTIONS: u32 = 1024;

/// Maximum number of addresses of names in a set.
const MAX_PINS: u32 = 4096;

/// Maximum number of addresses of the host in a set.
const MAX_HOST_ADDRESSES: usize = 1024;

/// Maximum number of routes that are compared with a destination.
const MAX_ROUTES: usize = 1024;

/// Group of the packets that are logged, for the gateway: the first of each allowed connection, and what is refused.
pub(crate) const LOG_GROUP: u16 = 1;

/// Number of bytes of a packet that are logged: an IPv4 header with all options, and two ports.
pub(crate) const LOG_LENGTH: u32 = 64;

/// Prefixes of the packets that are logged.
pub(crate) const ALLOWED: &str = "allowed";
pub(crate) const REFUSED: &str = "refused";
pub(crate) const UNREACHABLE: &str = "unreachable";

/// Name of the table.
const TABLE: &str = "inet banger";

/// Chains without a hook of their own.
const CHAINS: [&str; 7] = ["services", "resolve", "egress", "allow", "refuse", "unreachable", "deny"];

/// Sets that are filled while a VM runs: names, types, and sizes.
const HOST: &str = "host";
const ROUTES: &str = "routes";
const NAMES: &str = "names";
const NAME_PORTS: &str = "name_ports";

/// Returns the text that creates or replaces a VM's rules. The guest reaches `host_ports` at the gateway's addresses,
/// under every policy. `number` differs from that of the rules before.
pub fn rules(egress: &Egress, host_ports: &HostPorts, number: u32) -> String {
    let mut text = String::new();
    // Writing to a string never fails.
    let _ = write(&mut text, egress, host_ports, number);
    text
}

fn write(text: &mut String, egress: &Egress, host_ports: &HostPorts, number: u32) -> std::fmt::Result {
    declare(text)?;
    for chain in ["input", "forward", "output", "postrouting"].iter().chain(&CHAINS) {
        writeln!(text, "flush chain {TABLE} {chain}")?;
    }
    for set in [NAMES, NAME_PORTS] {
        writeln!(text, "flush set {TABLE} {set}4\nflush set {TABLE} {set}6")?;
    }
    writeln!(
        text,
        r#"table {TABLE} {{
    chain input {{
        ct state established,related accept
        iifname != "{TAP}" drop
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 saddr {{ ::, {GUEST_V6}, {GUEST_LINK_LOCAL} }} accept
        ip saddr != {GUEST} drop
        ip6 saddr != {GUEST_V6} drop
        ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport 53 goto resolve
        ip6 daddr {GATEWAY_V6} meta l4proto {{ tcp, udp }} th dport 53 goto resolve
        ip daddr {GATEWAY} icmp type echo-request limit rate 100/second accept
        ip6 daddr {GATEWAY_V6} icmpv6 type echo-request limit rate 100/second accept
{}        goto refuse
    }}
    chain services {{
        ct state new ct count over {MAX_SERVICE_CONNECTIONS} goto refuse
        accept
    }}
    chain output {{
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
    }}
    chain forward {{
        iifname "{UPLINK}" oifname "{TAP}" ct state established,related ct mark {number} accept
        iifname != "{TAP}" drop
        ip saddr != {GUEST} drop
        ip6 saddr != {GUEST_V6} drop
        ct state invalid drop
        ct state established,related ct mark {number} accept
        goto egress
    }}
    chain allow {{
        ct state new ct count over {MAX_CONNECTIONS} goto refuse
        ct mark != {number} {allowed}
        ct mark set {number} accept
    }}
    chain resolve {{
        ct state new ct count over {MAX_CONNECTIONS} goto refuse
        accept
    }}
    chain refuse {{
        {refused}
        goto deny
    }}
    chain unreachable {{
        {unreachable}
        goto deny
    }}
    chain deny {{
        meta l4proto tcp reject with tcp reset
        reject with icmpx admin-prohibited
    }}
    chain postrouting {{
        oifname "{UPLINK}" masquerade
    }}
    chain egress {{
        ip daddr {{ {NEVER} }} goto refuse
        ip6 daddr {{ {NEVER_V6} }} goto refuse
        ip daddr @{HOST}4 goto refuse
        ip6 daddr @{HOST}6 goto refuse
        ip daddr != @{ROUTES}4 goto unreachable
        ip6 daddr != @{ROUTES}6 goto unreachable"#,
        services(host_ports),
        allowed = log(ALLOWED),
        refused = log(REFUSED),
        unreachable = log(UNREACHABLE),
    )?;
    policy(text, egress)?;
    writeln!(text, "    }}\n}}")
}

/// Returns the statements that log a packet. Those to groups of hosts, which every system sends by itself, are not worth
/// it; a guest that sends many is not allowed to keep the gateway busy.
fn log(prefix: &str) -> String {
    let rate = "limit rate 200/second burst 400 packets";
    format!("meta pkttype host {rate} log prefix \"{prefix}\" group {LOG_GROUP} snaplen {LOG_LENGTH}")
}

/// Returns the rules for the ports of the host that the guest reaches.
fn services(host_ports: &HostPorts) -> String {
    if host_ports.is_empty() {
        return String::new();
    }
    let ports = host_ports.ports().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "        ip daddr {GATEWAY} tcp dport {{ {ports} }} goto services
        ip6 daddr {GATEWAY_V6} tcp dport {{ {ports} }} goto services\n"
    )
}

/// Writes the declarations of everything that keeps its content, which change nothing if it exists.
fn declare(text: &mut String) -> std::fmt::Result {
    writeln!(text, "table {TABLE} {{")?;
    for (family, address) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
        writeln!(
            text,
            "    set {HOST}{family} {{ type {address}; size {MAX_HOST_ADDRESSES}; }}
    set {ROUTES}{family} {{ type {address}; flags interval; auto-merge; }}
    set {NAMES}{family} {{ type {address}; flags timeout; size {MAX_PINS}; }}
    set {NAME_PORTS}{family} {{ type {address} . inet_service; flags timeout; size {MAX_PINS}; }}"
        )?;
    }
    for chain in ["input", "forward", "output"] {
        writeln!(text, "    chain {chain} {{ type filter hook {chain} priority filter; policy drop; }}")?;
    }
    for chain in CHAINS {
        writeln!(text, "    chain {chain} {{ }}")?;
    }
    writeln!(text, "    chain postrouting {{ type nat hook postrouting priority srcnat; }}\n}}")
}

/// Writes the rules of the policy, for destinations that a policy can allow.
fn policy(text: &mut String, egress: &Egress) -> std::fmt::Result {
    match egress {
        Egress::Open => writeln!(text, "        goto allow"),
        Egress::Learn => writeln!(text, "{OTHER_RESOLVERS}        goto allow"),
        Egress::Public => writeln!(
            text,
            "        ip daddr {{ {PRIVATE} }} goto refuse\n        ip6 daddr {{ {PRIVATE_V6} }} goto refuse
        goto allow"
        ),
        Egress::None => writeln!(text, "        goto refuse"),
        Egress::List(rules) => list(text, rules),
    }
}

/// Refuses other resolvers, in clear text or over TLS (RFC 7858), which would make a list's names meaningless.
const OTHER_RESOLVERS: &str = "        meta l4proto { tcp, udp } th dport { 53, 853 } goto refuse\n";

/// Writes the rules of a list. Only a rule with an address and their port allows other resolvers.
fn list(text: &mut String, rules: &[EgressRule]) -> std::fmt::Result {
    let networks = || {
        rules.iter().filter_map(|rule| match &rule.to {
            Destination::Network(network) => Some((*network, rule.port)),
            Destination::Name(_) | Destination::Below(_) => None,
        })
    };
    for (network, port) in networks().filter_map(|(network, port)| Some((network, port?))) {
        writeln!(text, "        {} {network} th dport {port} goto allow", destination(network, true))?;
    }
    text.push_str(OTHER_RESOLVERS);
    for (network, _) in networks().filter(|(_, port)| port.is_none()) {
        writeln!(text, "        {} {network} goto allow", destination(network, false))?;
    }
    for (family, address) in [(4, "ip"), (6, "ip6")] {
        writeln!(text, "        {address} daddr @{NAMES}{family} goto allow")?;
        writeln!(
            text,
            "        meta l4proto {{ tcp, udp }} {address} daddr . th dport @{NAME_PORTS}{family} goto allow"
        )?;
    }
    writeln!(text, "        goto refuse")
}

fn destination(network: Network, with_port: bool) -> String {
    let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
    if with_port { format!("meta l4proto {{ tcp, udp }} {family} daddr") } else { format!("{family} daddr") }
}

/// An address of a name that the policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    /// The address.
    pub address: IpAddr,
    /// The port that the name's rule allows; `None` is every port.
    pub port: Option<u16>,
    /// Time after which new connections are refused, in seconds.
    pub seconds: u32,
}

/// Returns the text that allows addresses, and starts their times again if they are allowed already.
pub fn pin(pins: &[Pin]) -> String {
    let mut text = String::new();
    for Pin { address, port, seconds } in pins {
        let set = if port.is_some() { NAME_PORTS } else { NAMES };
        let family = if address.is_ipv4() { 4 } else { 6 };
        let port = port.map(|port| format!(" . {port}")).unwrap_or_default();
        let element = format!("element {TABLE} {set}{family} {{ {address}{port}");
        // An element that exists keeps its time when it is added again.
        let _ = writeln!(text, "add {element} }}\ndelete {element} }}\nadd {element} timeout {seconds}s }}");
    }
    text
}

/// Returns the text that refuses the host's addresses, and what the host has no route to: pasta answers nothing then.
pub fn host(addresses: &[IpAddr], routes: &[Network]) -> String {
    let mut text = String::new();
    for (family, is_v4) in [(4, true), (6, false)] {
        let addresses = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
        let addresses = addresses.take(MAX_HOST_ADDRESSES).map(ToString::to_string);
        let routes = routes.iter().filter(|route| route.address.is_ipv4() == is_v4);
        let routes: Vec<_> = match routes.clone().find(|route| route.prefix == 0) {
            Some(default) => vec![default],
            // Of a router, which needs no such help.
            None if routes.clone().count() > MAX_ROUTES => continue,
            None => routes.collect(),
        };
        let routes = routes.into_iter().map(|Network { address, prefix }| format!("{address}/{prefix}"));
        for (set, list) in [(HOST, addresses.collect::<Vec<_>>()), (ROUTES, routes.collect())] {
            let _ = writeln!(text, "flush set {TABLE} {set}{family}");
            if !list.is_empty() {
                let _ = writeln!(text, "add element {TABLE} {set}{family} {{ {} }}", list.join(", "));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        process::{Command, Stdio},
    };

    fn list() -> Egress {
        "pypi.org,*.crates.io:443,10.0.0.5:5432,10.1.0.0/16,[2001:db8::1]:53,fd00::/8".parse().unwrap()
    }

    fn ports(text: &str) -> HostPorts {
        text.parse().unwrap()
    }

    #[test]
    fn the_rules_of_a_list_are_one_text() {
        insta::assert_snapshot!(rules(&list(), &ports("5432,8080"), 7));
    }

    #[test]
    fn policies_differ_only_at_their_ends() {
        let common = |egress| {
            rules(&egress, &HostPorts::default(), 1)
                .lines()
                .take_while(|line| !line.contains("@routes6 goto"))
                .count()
        };
        let open = rules(&Egress::Open, &HostPorts::default(), 1);
        for egress in [Egress::Learn, Egress::Public, Egress::None, list()] {
            assert_eq!(common(egress), common(Egress::Open));
        }
        assert!(open.ends_with("        goto allow\n    }\n}\n"), "{open}");
        assert!(rules(&Egress::None, &HostPorts::default(), 1).ends_with("        goto refuse\n    }\n}\n"));
    }

    /// Runs `nft` on each text in one new network namespace. Returns the rules that it then lists.
    fn apply(texts: &[String]) -> String {
        let mut script = String::new();
        for text in texts {
            let _ = write!(script, "nft -f - <<'END'\n{text}END\n[ $? = 0 ] || exit 1\n");
        }
        script.push_str("nft list ruleset");
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--net", "--", "sh", "-c", &script]).stderr(Stdio::piped());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn nft_accepts_the_rules_and_replaces_them() {
        let pins = pin(&[
            Pin { address: Ipv4Addr::new(1, 2, 3, 4).into(), port: Some(443), seconds: 60 },
            Pin { address: Ipv6Addr::LOCALHOST.into(), port: None, seconds: 3600 },
        ]);
        let routes = ["0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32"].map(|route| route.parse().unwrap());
        let addresses = [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::UNSPECIFIED.into()];
        let host = super::host(&addresses, &routes);
        let listed =
            apply(&[rules(&list(), &HostPorts::default(), 1), pins.clone(), pins.clone(), host.clone()]);
        assert!(listed.contains("1.2.3.4 . 443 timeout 1m") && listed.contains("::1 timeout 1h"), "{listed}");
        assert!(listed.contains("elements = { 192.0.2.1 }"), "{listed}");
        for egress in [Egress::Open, Egress::Learn, Egress::Public, Egress::None, list()] {
            let listed = apply(&[
                rules(&list(), &HostPorts::default(), 1),
                pins.clone(),
                host.clone(),
                rules(&egress, &HostPorts::default(), 2),
            ]);
            assert!(
                !listed.contains("1.2.3.4 . 443") && listed.contains("elements = { 192.0.2.1 }"),
                "{listed}"
            );
            assert!(!listed.contains("mark 0x00000001") && listed.contains("mark 0x00000002"), "{listed}");
            // Apart from the set that was kept, they are what they are on their own.
            let alone = apply(&[rules(&egress, &HostPorts::default(), 2)]);
            let without = |text: &str| {
                text.replace("\t\telements = { 0.0.0.0/0 }\n", "")
                    .replace("\t\telements = { 2001:db8::/32 }\n", "")
                    .replace("\t\telements = { 192.0.2.1 }\n", "")
                    .replace("\t\telements = { :: }\n", "")
            };
            assert_eq!(without(&listed), alone);
        }
        let services = apply(&[rules(&list(), &ports("80"), 1), rules(&Egress::None, &ports("22,5432"), 2)]);
        assert!(services.contains("tcp dport { 22, 5432 } goto services"), "{services}");
        assert!(!services.contains("tcp dport 80"), "{services}");
        let empty = apply(&[rules(&list(), &HostPorts::default(), 1), host, super::host(&[], &[])]);
        assert!(!empty.contains("192.0.2.1"), "{empty}");
    }
}
