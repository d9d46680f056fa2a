//! The argument that names a VM, image or kernel.

use clap::builder::NonEmptyStringValueParser;

/// Returns the parser of a VM, image or kernel argument: an id, a name, or a unique prefix of either.
pub(super) fn reference() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}
