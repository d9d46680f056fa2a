//! DNS messages of guests and resolvers, as bytes. Nothing here does I/O.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use banger_api::{DomainName, HostPorts};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE, rdata::RData};

use crate::addresses::{GATEWAY, GATEWAY_V6};

/// Domain of the names that banger itself answers.
const OWN_DOMAIN: &str = "banger.internal";

/// Name of the guest's gateway.
const GATEWAY_NAME: &str = "gateway.banger.internal";

/// Time that a guest may keep our own answers, in seconds.
const OWN_TTL: u32 = 60;

/// Types of records with hints of addresses: SVCB, HTTPS, and every type (RFC 9460, RFC 1035).
const HINTS: [u16; 3] = [64, 65, 255];

/// Length of a message's header, in bytes (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// What to do with a guest's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Pass it to a resolver.
    Forward(Question),
    /// Send this answer.
    Answer(Vec<u8>),
    /// It is no request: send nothing.
    Ignore,
}

/// The question of a request that a resolver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name, if it has the form of a host's.
    pub name: Option<DomainName>,
    /// Whether the answer may have addresses that this module does not find: in hints of services (RFC 9460).
    pub has_hints: bool,
}

/// An address in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Time for which it may be kept, in seconds.
    pub ttl: u32,
}

/// Decides about a guest's request. `services` are the addresses at which the guest reaches services of the host.
pub fn decide(request: &[u8], services: &[IpAddr]) -> Action {
    let Ok(packet) = Packet::parse(request) else { return ignore_or_fail(request) };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Action::Ignore;
    }
    let [question] = packet.questions.as_slice() else { return ignore_or_fail(request) };
    let name = question.qname.to_string().to_ascii_lowercase();
    let is_own = name == OWN_DOMAIN || name.strip_suffix(OWN_DOMAIN).is_some_and(|rest| rest.ends_with('.'));
    if is_own {
        return own(&packet, &name, services).map_or(Action::Ignore, Action::Answer);
    }
    let has_hints = !matches!(question.qtype, QTYPE::TYPE(kind) if !HINTS.contains(&u16::from(kind)));
    Action::Forward(Question { name: DomainName::parse(&name).ok(), has_hints })
}

/// Returns the answer that a name does not exist.
pub fn no_such_name(request: &[u8]) -> Option<Vec<u8>> {
    failure(request, RCODE::NameError)
}

/// Returns the answer that a name has no records of the requested type.
pub fn no_data(request: &[u8]) -> Option<Vec<u8>> {
    failure(request, RCODE::NoError)
}

/// Returns the addresses that an answer gives for the name in its question, also through aliases.
pub fn addresses(answer: &[u8]) -> Vec<Address> {
    let Ok(packet) = Packet::parse(answer) else { return Vec::new() };
    let Some(question) = packet.questions.first() else { return Vec::new() };
    let lower = |name: &Name<'_>| name.to_string().to_ascii_lowercase();
    let aliases: HashMap<String, String> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::CNAME(target) => Some((lower(&record.name), lower(&target.0))),
            _ => None,
        })
        .collect();
    let mut names = HashSet::new();
    let mut next = Some(lower(&question.qname));
    while let Some(name) = next {
        next = aliases.get(&name).cloned();
        // A circle ends here.
        if !names.insert(name) {
            break;
        }
    }
    let found = packet.answers.iter().filter(|record| names.contains(&lower(&record.name)));
    found
        .filter_map(|record| {
            let address = match &record.rdata {
                RData::A(data) => IpAddr::V4(Ipv4Addr::from(data.address)),
                RData::AAAA(data) => IpAddr::V6(Ipv6Addr::from(data.address)),
                _ => return None,
            };
            Some(Address { address, ttl: record.ttl })
        })
        .collect()
}

/// Returns the answer for a name of banger's.
fn own(request: &Packet<'_>, name: &str, services: &[IpAddr]) -> Option<Vec<u8>> {
    let question = request.questions.first()?;
    let mut reply = Packet::new_reply(request.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::AUTHORITATIVE_ANSWER);
    reply.questions.push(question.clone());
    let (name, addresses) = match name {
        GATEWAY_NAME => (GATEWAY_NAME, &[GATEWAY.into(), GATEWAY_V6.into()][..]),
        HostPorts::NAME => (HostPorts::NAME, services),
        _ => ("", &[][..]),
    };
    if addresses.is_empty() {
        *reply.rcode_mut() = RCODE::NameError;
    }
    let is_internet = matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY);
    for address in addresses.iter().filter(|_| is_internet) {
        let data = match (question.qtype, address) {
            (QTYPE::TYPE(TYPE::A), IpAddr::V4(address)) => RData::A((*address).into()),
            (QTYPE::TYPE(TYPE::AAAA), IpAddr::V6(address)) => RData::AAAA((*address).into()),
            _ => continue,
        };
        reply.answers.push(ResourceRecord::new(Name::new(name).ok()?, CLASS::IN, OWN_TTL, data));
    }
    reply.build_bytes_vec().ok()
}

/// Returns the answer to a request that is not valid, if it looks like a request at all.
fn ignore_or_fail(request: &[u8]) -> Action {
    failure(request, RCODE::FormatError).map_or(Action::Ignore, Action::Answer)
}

/// Returns the answer to a request that no resolver answers: "server failure".
pub fn server_failure(request: &[u8]) -> Option<Vec<u8>> {
    failure(request, RCODE::ServerFailure)
}

fn failure(request: &[u8], code: RCODE) -> Option<Vec<u8>> {
    let header = request.get(..HEADER)?;
    let (id, flags) = (u16::from_be_bytes(*header.first_chunk()?), *header.get(2)?);
    // The first bit says that it is a response.
    if flags & 0x80 != 0 {
        return None;
    }
    let question = Packet::parse(request).ok().and_then(|packet| packet.questions.into_iter().next());
    let mut reply = Packet::new_reply(id);
    *reply.rcode_mut() = code;
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    reply.questions.extend(question);
    reply.build_bytes_vec().ok()
}

/// Returns whether `response` is a response to `request`: the same number and the same question.
pub fn answers(request: &[u8], response: &[u8]) -> bool {
    let (Ok(asked), Ok(answered)) = (Packet::parse(request), Packet::parse(response)) else { return false };
    let question = |packet: &Packet<'_>| {
        let [question] = packet.questions.as_slice() else { return None };
        Some((question.qname.to_string().to_ascii_lowercase(), question.qtype, question.qclass))
    };
    let is_error_without_question = answered.questions.is_empty() && answered.rcode() != RCODE::NoError;
    answered.has_flags(PacketFlag::RESPONSE)
        && asked.id() == answered.id()
        && (is_error_without_question || question(&asked) == question(&answered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::Question;

    fn request(name: &str, qtype: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap().into_owned();
        packet.questions.push(Question::new(name, qtype.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    fn response(name: &str, id: u16) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        let question = Name::new(name).unwrap().into_owned();
        packet.questions.push(Question::new(question, TYPE::A.into(), CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn requests_are_passed_on_and_own_names_are_answered() {
        for (text, kind, has_hints) in [
            ("Example.com", TYPE::A, false),
            ("xbanger.internal", TYPE::MX, false),
            ("a.b", TYPE::HTTPS, true),
        ] {
            let name = Some(DomainName::parse(text).unwrap());
            assert_eq!(
                decide(&request(text, kind), &[]),
                Action::Forward(super::Question { name, has_hints })
            );
        }
        let Action::Answer(answer) = decide(&request("Gateway.Banger.Internal", TYPE::A), &[]) else {
            panic!()
        };
        let answer = Packet::parse(&answer).unwrap();
        assert_eq!((answer.id(), answer.answers.len(), answer.rcode()), (7, 1, RCODE::NoError));
        assert_eq!(answer.answers[0].rdata, RData::A(GATEWAY.into()));
        for (name, kind, code) in [
            ("gateway.banger.internal", TYPE::TXT, RCODE::NoError),
            ("other.banger.internal", TYPE::A, RCODE::NameError),
            ("banger.internal", TYPE::A, RCODE::NameError),
        ] {
            let Action::Answer(answer) = decide(&request(name, kind), &[]) else { panic!("{name}") };
            let answer = Packet::parse(&answer).unwrap();
            assert_eq!((answer.answers.len(), answer.rcode()), (0, code), "{name}");
        }
    }

    #[test]
    fn the_host_has_a_name_where_the_guest_reaches_services_of_it() {
        let answer = |kind, services: &[IpAddr]| {
            let Action::Answer(answer) = decide(&request("host.banger.internal", kind), services) else {
                panic!("{kind:?}")
            };
            let found: Vec<_> = addresses(&answer).iter().map(|found| found.address).collect();
            (Packet::parse(&answer).unwrap().rcode(), found)
        };
        let (v4, v6) = (IpAddr::from(GATEWAY), IpAddr::from(GATEWAY_V6));
        for (kind, services, expected) in [
            (TYPE::A, &[][..], (RCODE::NameError, vec![])),
            (TYPE::AAAA, &[], (RCODE::NameError, vec![])),
            (TYPE::A, &[v4, v6], (RCODE::NoError, vec![v4])),
            (TYPE::AAAA, &[v4, v6], (RCODE::NoError, vec![v6])),
            (TYPE::AAAA, &[v4], (RCODE::NoError, vec![])),
            (TYPE::TXT, &[v4, v6], (RCODE::NoError, vec![])),
        ] {
            assert_eq!(answer(kind, services), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_ignored_or_refused() {
        assert_eq!(decide(&[], &[]), Action::Ignore);
        assert_eq!(decide(&response("example.com", 7), &[]), Action::Ignore);
        let valid = request("example.com", TYPE::A);
        for end in HEADER..valid.len() {
            let Action::Answer(answer) = decide(&valid[..end], &[]) else { panic!("{end}") };
            assert_eq!(Packet::parse(&answer).unwrap().rcode(), RCODE::FormatError);
        }
        let failure = server_failure(&valid).unwrap();
        let failure = Packet::parse(&failure).unwrap();
        assert_eq!((failure.id(), failure.rcode(), failure.questions.len()), (7, RCODE::ServerFailure, 1));
    }

    #[test]
    fn addresses_are_those_of_the_question_also_through_aliases() {
        let mut packet = Packet::new_reply(7);
        let name = |text: &'static str| Name::new(text).unwrap();
        packet.questions.push(Question::new(name("a.example"), TYPE::A.into(), CLASS::IN.into(), false));
        let alias = |target| RData::CNAME(simple_dns::rdata::CNAME(name(target)));
        for (owner, data) in [
            ("c.example", RData::A(Ipv4Addr::new(203, 0, 113, 1).into())),
            ("A.example", alias("b.example")),
            ("b.example", alias("C.example")),
            ("c.example", RData::AAAA(Ipv6Addr::LOCALHOST.into())),
            ("other.example", RData::A(Ipv4Addr::new(203, 0, 113, 2).into())),
            ("c.example", alias("a.example")),
        ] {
            packet.answers.push(ResourceRecord::new(name(owner), CLASS::IN, 60, data));
        }
        let found: Vec<_> =
            addresses(&packet.build_bytes_vec().unwrap()).iter().map(|a| a.address.to_string()).collect();
        assert_eq!(found, ["203.0.113.1", "::1"]);
        assert!(addresses(&[]).is_empty());
    }

    #[test]
    fn only_an_answer_to_the_question_is_one() {
        let asked = request("example.com", TYPE::A);
        assert!(answers(&asked, &response("EXAMPLE.com", 7)));
        assert!(!answers(&asked, &response("example.com", 8)));
        assert!(!answers(&asked, &response("example.org", 7)));
        assert!(!answers(&asked, &asked));
        assert!(!answers(&asked, &[]));
    }
}
