//! The result of a check.

use banger_api::{ApiError, Check};

/// The result of a check, or the error with which a start would fail.
pub(super) type Finding = Result<Check, ApiError>;

/// Converts a finding to a check; an error becomes a failed check.
pub(super) fn into_check(name: &str, finding: Finding) -> Check {
    finding.unwrap_or_else(|error| Check::fail(name, error))
}
