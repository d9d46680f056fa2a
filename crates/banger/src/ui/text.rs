//! Text that is safe to print.

/// `text` without what a terminal would obey: control characters, but for line breaks and tabs.
pub(super) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}
