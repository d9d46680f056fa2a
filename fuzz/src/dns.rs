//! Decides about a guest's DNS request and a resolver's answer to it: the first two bytes are the request's length.

use std::net::Ipv4Addr;

use banger_net::gateway::dns::{Action, addresses, answers, decide, no_such_name, server_failure};

pub(crate) fn run(data: &[u8]) {
    let Some((length, bytes)) = data.split_first_chunk::<2>() else { return };
    let (request, answer) = bytes.split_at(usize::from(u16::from_be_bytes(*length)).min(bytes.len()));
    let own = match decide(request, &[Ipv4Addr::LOCALHOST.into()]) {
        Action::Answer(own) => Some(own),
        Action::Forward(_) => server_failure(request).into_iter().chain(no_such_name(request)).next(),
        Action::Ignore => None,
    };
    if let Some(own) = own {
        // The number of the request, and marked as a response.
        assert_eq!(own.get(..2), request.get(..2));
        assert!(own.get(2).is_some_and(|flags| flags & 0x80 != 0));
        assert!(own.len() <= 1024, "{} bytes", own.len());
    }
    // An address takes at least 4 bytes, and its record 10 more.
    assert!(addresses(answer).len() <= answer.len() / 14);
    if answers(request, answer) {
        assert_eq!(answer.get(..2), request.get(..2));
    }
}
