//! Work that is not pulled.

/// A path in the guest that is left out of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The path.
    pub path: Vec<u8>,
    /// The reason.
    pub reason: &'static str,
    /// Whether it may hold work that is nowhere else.
    pub is_work: bool,
}
