//! Why a text is no catalog.

/// Why a text is no catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CatalogError {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}
