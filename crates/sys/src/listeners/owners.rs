//! Finds the owner of a socket: the first process that has it open.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

/// Maximum number of descriptors to scan.
const MAX_DESCRIPTORS: usize = 200_000;

/// A process that owns a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Its name, which the process itself may choose.
    pub name: String,
}

/// Returns the owners of the sockets with these inodes, by inode: those whose descriptors this process may read.
pub fn owners(mut inodes: HashSet<u64>) -> HashMap<u64, Owner> {
    let mut owners = HashMap::new();
    let mut remaining = MAX_DESCRIPTORS;
    for pid in pids() {
        // A process that has ended meanwhile has no descriptors.
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            if inodes.is_empty() || remaining == 0 {
                return owners;
            }
            remaining -= 1;
            let inode = fs::read_link(descriptor.path()).ok().and_then(|target| socket(&target));
            if let Some(inode) = inode.filter(|inode| inodes.remove(inode)) {
                owners.insert(inode, Owner { pid, name: name(pid) });
            }
        }
    }
    owners
}

/// Returns all process ids in ascending order, roughly the oldest first.
fn pids() -> Vec<u32> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// Parses the inode in the link target of a socket's descriptor: `socket:[12345]`.
fn socket(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_inode_is_parsed_from_its_descriptors_link() {
        assert_eq!(socket(Path::new("socket:[12345]")), Some(12345));
        for other in ["pipe:[1]", "socket:[]", "socket:[x]", "/socket:[1]", "socket:[1"] {
            assert_eq!(socket(Path::new(other)), None);
        }
    }
}
