//! Errors of catalogs.

/// Reason for rejecting a catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CatalogError {
    /// Line number, starting at 1.
    pub line: usize,
    /// The problem.
    pub problem: String,
}
