//! Limits of requests and responses.

/// Maximum size of the head of a request or response, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;

/// Maximum number of headers of a request or response.
pub(super) const MAX_HEADERS: usize = 128;
