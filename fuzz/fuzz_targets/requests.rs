//! What a request to bangerd may say, in its body, its query and its path: refused, or what is written as it was read.
#![no_main]

use banger_api::{
    CreateVm, DeleteVm, Event, Id, KillVm, Name, Pull, PullImage, RestartVm, SetVm, Size, StartVm, StopVm, VmName,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// A body, or a query, that is read as a `T` reads the same once it has been written.
fn both<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let parsed = [serde_json::from_slice::<T>(bytes).ok(), serde_urlencoded::from_bytes::<T>(bytes).ok()];
    for value in parsed.into_iter().flatten() {
        let written = serde_json::to_vec(&value).expect("what was read can be written");
        let again: T = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(serde_json::to_vec(&again).expect("again"), written);
    }
}

fuzz_target!(|bytes: &[u8]| {
    both::<CreateVm>(bytes);
    both::<SetVm>(bytes);
    both::<PullImage>(bytes);
    both::<StopVm>(bytes);
    both::<StartVm>(bytes);
    both::<RestartVm>(bytes);
    both::<KillVm>(bytes);
    both::<DeleteVm>(bytes);
    both::<Pull>(bytes);
    // The client reads these from whatever listens at the socket.
    both::<Event>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
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
});
