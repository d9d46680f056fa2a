//! Failures by what to do about them.

/// What kind of failure an error is, for those who answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The input, or what was asked for, is not acceptable.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// Whoever has it does not give it to this user.
    NotPermitted,
    /// Whoever has it cannot be reached, or is out of order.
    Unreachable,
    /// A disk is full.
    NoSpace,
    /// A program is not installed on this host.
    MissingProgram,
    /// The caller stopped it.
    Cancelled,
    /// Something took longer than it may.
    Timeout,
    /// The operating system, or a program on this host, failed.
    Io,
}
