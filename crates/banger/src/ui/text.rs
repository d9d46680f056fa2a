//! Text that is safe to print.

/// Returns `text` without control characters, which a terminal could obey; keeps line breaks and tabs.
pub(super) fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}
