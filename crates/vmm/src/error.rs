//! Errors of VMMs and of connections to guests.

use std::{io, path::PathBuf, time::Duration};

use crate::kind::VmmKind;

/// An error of a VMM, or of a connection to a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// No VMM on this host can run a VM.
    #[error("no VMM on this host can run a VM: {why}")]
    NoVmm {
        /// Reason why each VMM cannot be used, and the remedy.
        why: String,
    },
    /// The requested VMM is not installed, or lacks something.
    #[error("{vmm} cannot run a VM here: {why}")]
    Unusable {
        /// The VMM.
        vmm: VmmKind,
        /// The missing part, and the remedy.
        why: String,
    },
    /// Firecracker was requested, and KVM is not usable.
    #[error("firecracker needs KVM: {why}")]
    NoKvm {
        /// Reason from the KVM probe.
        why: String,
    },
    /// A VM's speed depends on KVM, and the probe has no verdict.
    #[error("cannot determine whether KVM works: {why}")]
    KvmUnknown {
        /// Reason why there is no verdict.
        why: String,
    },
    /// Something did not answer in time.
    #[error("{what} did not answer within {} ms", limit.as_millis())]
    Timeout {
        /// Name of the peer.
        what: String,
        /// The timeout.
        limit: Duration,
    },
    /// A peer does not follow its protocol.
    #[error("unexpected answer from {what}: {answer}")]
    Protocol {
        /// Firecracker's API, QMP, or the vsock's handshake.
        what: &'static str,
        /// The answer that was received.
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
        /// The response's `fault_message`.
        fault: String,
    },
    /// A vsock port cannot be reached or listened on.
    #[error("nothing in the guest answers on vsock port {port}: {source}")]
    Guest {
        /// The vsock port.
        port: u32,
        /// The cause.
        source: io::Error,
    },
    /// A socket could not be used.
    #[error("cannot use the socket {}: {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A configuration could not be rendered.
    #[error("cannot render the configuration: {0}")]
    Render(#[from] serde_json::Error),
}
