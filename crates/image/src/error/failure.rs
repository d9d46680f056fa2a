//! Failures classified by remedy.

/// The kind of a failure, for callers that react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The input or the request is invalid.
    Invalid,
    /// The requested object does not exist.
    NotFound,
    /// The user lacks permission.
    NotPermitted,
    /// A server cannot be reached, or does not work.
    Unreachable,
    /// A disk is full.
    NoSpace,
    /// A program is not installed on this host.
    MissingProgram,
    /// The caller cancelled the operation.
    Cancelled,
    /// The operation timed out.
    Timeout,
    /// The operating system, or a program on this host, failed.
    Io,
}
