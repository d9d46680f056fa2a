//! Extended attributes in the form that ext4 stores.

use crate::archive::EntryProblem;

/// Bytes for attributes in an inode's single attribute block, without header and end mark.
const MAX_SIZE: usize = 4096 - 32 - 4;

/// Names of access control lists, which ext4 stores in its own format.
const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Attribute namespaces that ext4 supports.
const NAMESPACES: [&str; 3] = ["user.", "trusted.", "security."];

/// Returns the attributes to store: the last of each name, without those that ext4 does not support.
pub(super) fn stored(mut xattrs: Vec<(String, Vec<u8>)>) -> Result<Vec<(String, Vec<u8>)>, EntryProblem> {
    for (name, value) in &mut xattrs {
        if ACCESS_LISTS.contains(&name.as_str()) {
            *value = access_list(value).ok_or_else(|| EntryProblem::Xattr(name.clone()))?;
        }
    }
    fitting(xattrs)
}

/// Like [`stored`], for attributes that are already in ext4's format.
pub(super) fn fitting(xattrs: Vec<(String, Vec<u8>)>) -> Result<Vec<(String, Vec<u8>)>, EntryProblem> {
    let mut stored: Vec<(String, Vec<u8>)> = Vec::with_capacity(xattrs.len());
    let mut used = 0;
    for (name, value) in xattrs {
        let suffix = if ACCESS_LISTS.contains(&name.as_str()) {
            0
        } else if let Some(space) = NAMESPACES.iter().find(|space| name.starts_with(**space)) {
            if name.len() == space.len() {
                return Err(EntryProblem::Xattr(name));
            }
            name.len() - space.len()
        } else {
            // macOS attributes, for example.
            continue;
        };
        stored.retain(|(other, _)| *other != name);
        used += 16 + suffix.next_multiple_of(4) + value.len().next_multiple_of(4);
        if used > MAX_SIZE {
            return Err(EntryProblem::Xattr(name));
        }
        stored.push((name, value));
    }
    Ok(stored)
}

/// Converts an access control list to ext4's format: acl(5) version 2 to version 1, with ids only for named entries.
fn access_list(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    if entries.len() % 8 != 0 {
        return None;
    }
    let mut list = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let length = if matches!(tag, USER | GROUP) { 8 } else { 4 };
        list.extend(&entry[..length]);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_validated_and_converted() {
        let one = |name: &str, value: &[u8]| stored(vec![(name.to_owned(), value.to_vec())]);
        assert_eq!(one("user.a", b"1").unwrap().len(), 1);
        assert_eq!(one("com.apple.provenance", b"1").unwrap().len(), 0);
        assert!(one("user.", b"1").is_err());
        assert!(one("user.a", &[0; 4096]).is_err());
        assert!(one("user.a", &[0; 4000]).is_ok());
        assert!(one("system.posix_acl_access", b"junk").is_err());
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(1u16, u32::MAX), (2, 1000), (4, u32::MAX)] {
            list.extend(tag.to_le_bytes());
            list.extend(6u16.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        assert_eq!(one("system.posix_acl_access", &list).unwrap()[0].1.len(), 4 + 4 + 8 + 4);
        let twice = stored(vec![("user.a".to_owned(), vec![1]), ("user.a".to_owned(), vec![2])]).unwrap();
        assert_eq!(twice, [("user.a".to_owned(), vec![2])]);
    }
}
