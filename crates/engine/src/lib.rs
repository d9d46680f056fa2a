//! The daemon's domain: VMs, images, kernels, operations, the store. Knows no socket of its own.
//!
//! [`Engine`] is all that the daemon's routes talk to.

mod admission;
mod bundles;
mod catalog;
mod config;
mod dirs;
mod doctor;
mod engine;
mod error;
#[cfg(feature = "fail-points")]
mod fail;
mod happenings;
mod host;
mod image_names;
mod images;
mod kernels;
mod logs;
mod names;
mod operation;
mod outside;
mod prune;
mod pull;
mod reconcile;
mod signed_catalogs;
mod spans;
mod staged;
mod stats;
mod store;
mod sweep;
mod uses;
mod vm;
mod vmms;

pub use doctor::doctor;
pub use engine::{Engine, Events, Parts};
pub use error::EngineError;
pub use host::Programs;
pub use images::Tar;
pub use logs::{CONSOLE_MAX, Rotating, keeper_main};
pub use operation::asked_by;
pub use store::StoreError;
pub use uses::Session;

/// Makes `path` for this user alone; see the error for what is refused.
///
/// # Errors
/// When it cannot be made, or is another's, or a link.
pub fn private_dir(path: &std::path::Path) -> Result<(), banger_api::ApiError> {
    Ok(dirs::private(path)?)
}

/// Every point at which a build for the tests can be killed; see `fail`.
#[cfg(feature = "fail-points")]
pub fn fail_points() -> Vec<String> {
    fail::all()
}

/// The whole of the process `bangerd kvm-probe`.
pub fn kvm_probe_main() -> std::process::ExitCode {
    banger_vmm::probe_main()
}

/// A fresh id.
pub(crate) fn random_id() -> banger_api::Id {
    banger_api::Id::from_random(random())
}

/// Random bytes of the kernel's; it always has some on Linux once it is up.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Ids must not repeat; going on without them would mix VMs up.
        panic!("the kernel gives no random bytes: {error}");
    }
    bytes
}
