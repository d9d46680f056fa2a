//! What only tests of the daemon need.

use std::path::Path;

/// Returns whether `program` is a fake VMM of a test, whose guest is the host: such a file is beside it.
pub(crate) fn is_fake(program: &Path) -> bool {
    program.with_file_name("fake-vmms").exists() && program.file_name() != Some("bangerd".as_ref())
}
