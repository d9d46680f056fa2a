//! Replies of the agent, and bytes that are none.

use std::net::IpAddr;

use banger_proto::{
    Connection, DiskUsage, Endpoint, ExitStatus, FailureKind, HEADER_LEN, Inspection, InterfaceUsage,
    Listener, Reply, Transport,
};

use crate::{choices::Choices, encode::frame, texts::text};

const FAILURES: [FailureKind; 5] = [
    FailureKind::Internal,
    FailureKind::NotFound,
    FailureKind::NotPermitted,
    FailureKind::Invalid,
    FailureKind::Unsupported,
];

pub(super) fn failed(choices: &mut Choices<'_>) -> Reply {
    Reply::Failed { kind: *choices.pick(&FAILURES), message: text(choices) }
}

pub(super) fn any(choices: &mut Choices<'_>) -> Reply {
    match choices.below(13) {
        0 => failed(choices),
        1 => Reply::Acknowledged { bytes: choices.number() },
        2 => Reply::Exited { status: exit_status(choices) },
        3 => Reply::Ports { listeners: listeners(choices) },
        4 => Reply::Inspected(inspected(choices)),
        5 => Reply::Connected,
        6 => Reply::Closed,
        7 => Reply::Listening { at: Endpoint::Unix { path: text(choices).into_bytes() } },
        8 => Reply::Incoming { id: choices.number(), from: None },
        9 => Reply::Started { pid: choices.number() },
        10 => Reply::PoweringOff,
        11 => Reply::Connections { connections: connections(choices) },
        _ => Reply::Pong,
    }
}

/// Returns bytes that are no reply.
pub(super) fn malformed(choices: &mut Choices<'_>) -> Vec<u8> {
    let control = |json: String| frame(&banger_proto::Frame::Control(json.into_bytes().into()));
    match choices.below(7) {
        0 => control(r#"{"reply":"teleported"}"#.to_owned()),
        1 => control("[".repeat(choices.below(10_000))),
        2 => control(format!(r#"{{"reply":"failed","kind":"x","message":{}}}"#, choices.below(9))),
        3 => control(r#"{"reply":"exited","status":{"code":70000}}"#.to_owned()),
        // A length over the limit, and one just within it.
        4 => vec![0xff; HEADER_LEN],
        5 => vec![0, 0x10, 0, 0, choices.number()],
        _ => choices.bytes(30),
    }
}

pub(super) fn exit_status(choices: &mut Choices<'_>) -> ExitStatus {
    match choices.below(6) {
        0..3 => ExitStatus::Code(0),
        3 => ExitStatus::Code(choices.number()),
        4 => ExitStatus::Code(*choices.pick(&[1, 2, 16, 17, 28])),
        _ => ExitStatus::Signal(choices.number()),
    }
}

pub(super) fn listeners(choices: &mut Choices<'_>) -> Vec<Listener> {
    let count = if choices.chance(1) { 9000 } else { u16::try_from(choices.below(4)).unwrap_or(0) };
    let process = text(choices);
    // All of them fit in a frame.
    let process: Option<String> =
        Some(process.chars().take(if count > 9 { 20 } else { usize::MAX }).collect());
    let listener = |port| Listener {
        protocol: Transport::Tcp,
        address: IpAddr::from([0, 0, 0, 0]),
        port,
        pid: Some(1),
        process: process.clone(),
        http: port % 2 == 0,
    };
    (0..count).map(listener).collect()
}

fn connections(choices: &mut Choices<'_>) -> Vec<Connection> {
    let process = text(choices);
    let connection = |port| Connection {
        protocol: Transport::Udp,
        address: IpAddr::from([203, 0, 113, 1]),
        port,
        pid: 1,
        process: process.clone(),
    };
    (0..u16::try_from(choices.below(4)).unwrap_or(0)).map(connection).collect()
}

pub(super) fn inspected(choices: &mut Choices<'_>) -> Inspection {
    Inspection {
        uptime_ms: choices.number(),
        clock_ns: choices.number(),
        memory_total: choices.number(),
        memory_available: choices.number(),
        disks: vec![DiskUsage { path: text(choices), total: choices.number(), available: choices.number() }],
        interfaces: vec![InterfaceUsage { name: text(choices), ..InterfaceUsage::default() }],
        ..Inspection::default()
    }
}
