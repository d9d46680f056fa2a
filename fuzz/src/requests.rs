//! Parses requests to bangerd as body, query and path: a parsed value stays the same when it is written and read again.

use banger_api::{
    CreateVm, DeleteVm, Id, KillVm, Name, OperationEvent, Pull, PullImage, RestartVm, SetVm, Size, StartVm,
    StopVm, VmName,
};
use serde::{Serialize, de::DeserializeOwned};

/// Checks that a body and a query stay the same when they are written and read again.
fn check_round_trip<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let parsed = [serde_json::from_slice::<T>(bytes).ok(), serde_urlencoded::from_bytes::<T>(bytes).ok()];
    for value in parsed.into_iter().flatten() {
        let written = serde_json::to_vec(&value).expect("a parsed value serializes");
        let again: T = serde_json::from_slice(&written).expect("a serialized value parses");
        assert_eq!(serde_json::to_vec(&again).expect("a parsed value serializes"), written);
    }
}

pub(crate) fn run(data: &[u8]) {
    check_round_trip::<CreateVm>(data);
    check_round_trip::<SetVm>(data);
    check_round_trip::<PullImage>(data);
    check_round_trip::<StopVm>(data);
    check_round_trip::<StartVm>(data);
    check_round_trip::<RestartVm>(data);
    check_round_trip::<KillVm>(data);
    check_round_trip::<DeleteVm>(data);
    check_round_trip::<Pull>(data);
    // The client reads events from any program that listens at the socket.
    check_round_trip::<OperationEvent>(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<VmName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(size) = text.parse::<Size>() {
        assert!(size.as_bytes() <= 1 << 60);
    }
}
