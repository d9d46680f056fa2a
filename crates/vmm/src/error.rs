//! What goes wrong between the host and its VMMs.

use std::{io, path::PathBuf, time::Duration};

use crate::kind::VmmKind;

/// An error of a VMM, or of the way to a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// Nothing is installed that could run a VM.
    #[error("nothing here can run a VM: {why}")]
    NoVmm {
        /// What was looked for, and what to do.
        why: String,
    },
    /// The one that was asked for is not installed, or lacks something.
    #[error("{vmm} cannot run a VM here: {why}")]
    Unusable {
        /// Which.
        vmm: VmmKind,
        /// What is missing, and what to do.
        why: String,
    },
    /// Firecracker was asked for, and KVM is not usable.
    #[error("firecracker needs KVM: {why}")]
    NoKvm {
        /// What the probe found.
        why: String,
    },
    /// A VM's speed depends on KVM, and the probe has no verdict.
    #[error("cannot tell whether KVM works: {why}")]
    KvmUnknown {
        /// Why there is none.
        why: String,
    },
    /// Something did not answer in time.
    #[error("{what} has not answered in {} ms", limit.as_millis())]
    Timeout {
        /// What.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// A control socket does not follow its protocol.
    #[error("{what} answers what it should not: {answer}")]
    Protocol {
        /// Firecracker's API, QMP, or the vsock's handshake.
        what: &'static str,
        /// What came.
        answer: String,
    },
    /// A request to Firecracker's API was refused.
    #[error("firecracker refused {method} {path} with {status}: {fault}")]
    Api {
        /// HTTP method.
        method: &'static str,
        /// Path of the resource.
        path: &'static str,
        /// HTTP status.
        status: u16,
        /// Its `fault_message`.
        fault: String,
    },
    /// Nothing in the guest listens on that vsock port.
    #[error("nothing in the guest answers on vsock port {port}: {source}")]
    Guest {
        /// The port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be used.
    #[error("cannot use the socket {}: {source}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration could not be rendered.
    #[error("cannot render the configuration: {0}")]
    Render(#[from] serde_json::Error),
}
