//! What the lock file of a store says about the daemon that holds it, or held it last.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The content of a store's lock file. The daemon writes it when it has the lock, and when it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The daemon's process id.
    pub pid: u32,
    /// The name of its host.
    pub host: String,
    /// The id of the host's boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The lock file's inode. The record in a copied file says nothing about the copy.
    pub inode: u64,
    /// The directory of the daemon's sockets.
    pub runtime: PathBuf,
    /// True after the daemon stopped by itself; false while it runs, after it was killed, and after a power loss.
    pub stopped: bool,
    /// True if the host lost power while an earlier daemon ran, until a daemon has dealt with it.
    pub power_loss: bool,
    /// The number of VMs that ran when it stopped.
    pub running_vms: usize,
}

impl LockRecord {
    /// Maximum length of a record's text, in bytes.
    pub const MAX: usize = 64 << 10;

    /// Parses the text of a lock file with this inode. Returns `None` if it is not a record of that file.
    pub fn parse(text: &[u8], inode: u64) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|record: &Self| record.inode == inode)
    }

    /// Returns the record as text.
    ///
    /// # Errors
    /// Returns an error if a path is not UTF-8.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_of_the_same_file_is_parsed() {
        let record = LockRecord {
            pid: 7,
            host: "alpha".to_owned(),
            boot_id: "b".to_owned(),
            inode: 9,
            runtime: "/r".into(),
            stopped: false,
            power_loss: false,
            running_vms: 0,
        };
        let text = record.to_text().unwrap();
        assert_eq!(LockRecord::parse(text.as_bytes(), 9), Some(record));
        for (text, inode) in [(text.as_str(), 8), ("", 9), ("\0\0\0", 9), ("{\"pid\":7}", 9)] {
            assert_eq!(LockRecord::parse(text.as_bytes(), inode), None, "{text:?}");
        }
    }
}
