//! Random bytes and ids.

use banger_api::Id;

/// Returns a new random id.
pub(crate) fn random_id() -> Id {
    Id::from_random(random())
}

/// Returns random bytes from the kernel. On Linux this does not fail once the system has booted.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Ids must not repeat: continuing without random bytes would confuse VMs with each other.
        panic!("cannot get random bytes from the kernel: {error}");
    }
    bytes
}
