//! Checks of memory and disk space.

use banger_api::{ApiError, Check, Config, Dirs, ErrorKind, Size};

use super::finding::Finding;
use crate::admission;

/// Checks that the host has the memory of a default VM available.
pub(super) fn memory(config: &Config) -> Finding {
    let needed = config.memory();
    admission::check_memory(needed)?;
    Ok(match admission::host_memory() {
        Some(capacity) => Check::pass(
            "memory",
            format!("{} available of {}; a VM gets {needed}", capacity.available, capacity.total),
        ),
        None => {
            let message = "/proc/meminfo cannot be read; VMs start without a check of the host's memory";
            Check::warn("memory", ApiError::new(ErrorKind::Io, message))
        }
    })
}

/// With less free space than this, one more image does not fit.
const LOW_SPACE: Size = Size::gib(2);

/// Checks that the state directory's file system has room for a new VM's disks.
pub(super) fn space(dirs: &Dirs) -> Finding {
    check_disk_space(dirs)?;
    let dir = dirs.state.display();
    Ok(match admission::disk_capacity(&dirs.state) {
        Some(capacity) => {
            let message = format!("{} free of {} for {dir}", capacity.available, capacity.total);
            if capacity.available < LOW_SPACE {
                let message = format!("{message}; one image takes about 0.5G, plus what each VM writes");
                Check::warn("disk space", ApiError::new(ErrorKind::NoSpace, message))
            } else {
                Check::pass("disk space", message)
            }
        }
        None => Check::pass("disk space", format!("{dir} is on a file system without a size limit")),
    })
}

/// Checks the space for a new VM's disks. They are sparse, so only the reserve must be free.
pub(crate) fn check_disk_space(dirs: &Dirs) -> Result<(), ApiError> {
    admission::check_space(&dirs.state, "a VM's disks", Size::bytes(0))
}
