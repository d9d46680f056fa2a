//! Sizes in messages.

/// Returns a size for messages.
pub(crate) fn size_text(bytes: u64) -> String {
    let (mib, gib) = (1 << 20, 1 << 30);
    if bytes < mib {
        format!("{bytes} bytes")
    } else if bytes < gib {
        format!("{} MiB", bytes / mib)
    } else {
        format!("{} GiB", bytes / gib)
    }
}
