//! The initrd's kernel modules.

use std::fs::{self, File};

use rustix::{io::Errno, system::finit_module};

use super::error::{BootError, failed};

/// The initrd's list of modules: one path per line, in load order.
const LIST: &str = "/banger/modules";

/// Loads all modules of the list.
pub(super) fn load() -> Result<(), BootError> {
    let list = fs::read_to_string(LIST).map_err(failed("read", LIST))?;
    for path in list.lines() {
        let file = File::open(path).map_err(failed("open", path))?;
        match finit_module(&file, c"", 0) {
            // Built into the kernel, or a driver for another VMM's devices.
            Ok(()) | Err(Errno::EXIST | Errno::NODEV) => {}
            Err(error) => return Err(failed("load the module", path)(error)),
        }
    }
    Ok(())
}
