//! Checks of memory and disk space.

use banger_api::{ApiError, Check, Config, Dirs, ErrorKind, Size};

use super::finding::Finding;
use crate::admission;

/// Checks that the host has the memory of a default VM available.
pub(super) fn memory(config: &Config) -> Finding {
    let wanted = config.memory();
    admission::memory(wanted)?;
    Ok(match admission::host_memory() {
        Some(room) => Check::pass(
            "memory",
            format!("{} available of {}; a VM gets {wanted}", room.available, room.total),
        ),
        None => {
            let message = "/proc/meminfo cannot be read; VMs start without a check of the host's memory";
            Check::warn("memory", ApiError::new(ErrorKind::Io, message))
        }
    })
}

/// With less free space than this, one more image does not fit.
const LITTLE: Size = Size::gib(2);

/// Checks that the state directory's file system has room for a new VM's disks.
pub(super) fn space(dirs: &Dirs) -> Finding {
    fresh_disks(dirs)?;
    let folder = dirs.state.display();
    Ok(match admission::disk(&dirs.state) {
        Some(room) => {
            let message = format!("{} free of {} for {folder}", room.available, room.total);
            if room.available < LITTLE {
                let message = format!("{message}; one image takes about 0.5G, plus what each VM writes");
                Check::warn("disk space", ApiError::new(ErrorKind::NoSpace, message))
            } else {
                Check::pass("disk space", message)
            }
        }
        None => Check::pass("disk space", format!("{folder} is on a file system without a size limit")),
    })
}

/// Checks the space for a new VM's disks. They are sparse, so only the reserve must be free.
pub(crate) fn fresh_disks(dirs: &Dirs) -> Result<(), ApiError> {
    admission::space(&dirs.state, "a VM's disks", Size::bytes(0))
}
