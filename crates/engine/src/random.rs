//! Random bytes and ids.

use banger_api::Id;

/// Returns a fresh id.
pub(crate) fn random_id() -> Id {
    Id::from_random(random())
}

/// Returns random bytes of the kernel's; Linux always has some once it is up.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Ids must not repeat; going on without random bytes would mix VMs up.
        panic!("the kernel gives no random bytes: {error}");
    }
    bytes
}
