//! The argument that names a VM, image or kernel.

use clap::builder::NonEmptyStringValueParser;

/// A VM, image or kernel as the user names it: by id, name, or the beginning of either.
pub(super) fn reference() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}
