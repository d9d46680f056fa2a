//! What came of a check.

use banger_api::{ApiError, Check};

/// What came of a check: its words, or the error of a start that would fail by it.
pub(super) type Finding = Result<Check, ApiError>;

/// A failure as a check tells it.
pub(super) fn told(name: &str, finding: Finding) -> Check {
    finding.unwrap_or_else(|error| Check::fail(name, error))
}
