//! A file's attributes in packets.

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens,
        utimensat,
    },
    io::Errno,
};

use super::packet::{Fields, Malformed, Packet};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;

/// Mode bits that can be set.
const SETTABLE: u32 = 0o7777;

/// File attributes that a request sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AttributeChange {
    size: Option<u64>,
    owner: Option<(u32, u32)>,
    permissions: Option<u32>,
    /// Times of the last access and modification, in seconds.
    times: Option<(u32, u32)>,
}

impl AttributeChange {
    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let flags = fields.u32()?;
        let mut change = Self::default();
        if flags & SIZE != 0 {
            change.size = Some(fields.u64()?);
        }
        if flags & OWNER != 0 {
            change.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            change.permissions = Some(fields.u32()?);
        }
        if flags & TIMES != 0 {
            change.times = Some((fields.u32()?, fields.u32()?));
        }
        if flags & EXTENDED != 0 {
            // No client uses extensions; a count that is too high runs out of fields.
            for _ in 0..fields.u32()? {
                let _ = (fields.bytes()?, fields.bytes()?);
            }
        }
        Ok(change)
    }

    /// Returns the permissions of a new file or directory, or `default` if there are none.
    pub(super) fn mode(&self, default: u32) -> Mode {
        Mode::from_raw_mode(self.permissions.unwrap_or(default) & SETTABLE)
    }

    /// Applies these attributes to `path`; with `follow`, to the target of a link there.
    pub(super) fn apply(&self, path: &Path, follow: bool) -> io::Result<()> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        if let Some(size) = self.size {
            // The size of a link cannot be set.
            let file = follow.then(|| File::options().write(true).open(path)).ok_or(Errno::INVAL)??;
            file.set_len(size)?;
        }
        if self.permissions.is_some() {
            chmodat(CWD, path, self.mode(0), flags)?;
        }
        if let Some(times) = self.timestamps() {
            utimensat(CWD, path, &times, flags)?;
        }
        if let Some((user, group)) = self.owner {
            chownat(CWD, path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), flags)?;
        }
        Ok(())
    }

    /// Applies these attributes to `file`.
    pub(super) fn apply_to(&self, file: &File) -> io::Result<()> {
        if let Some(size) = self.size {
            file.set_len(size)?;
        }
        if self.permissions.is_some() {
            fchmod(file.as_fd(), self.mode(0))?;
        }
        if let Some(times) = self.timestamps() {
            futimens(file.as_fd(), &times)?;
        }
        if let Some((user, group)) = self.owner {
            fchown(file.as_fd(), Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        Ok(())
    }

    fn timestamps(&self) -> Option<Timestamps> {
        let time = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
        self.times
            .map(|(access, change)| Timestamps { last_access: time(access), last_modification: time(change) })
    }
}

/// Appends the attributes of `meta` to `packet`.
pub(super) fn append(packet: Packet, meta: &Metadata) -> Packet {
    // The protocol's times end in 2106.
    let time = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
    packet
        .u32(SIZE | OWNER | PERMISSIONS | TIMES)
        .u64(meta.size())
        .u32(meta.uid())
        .u32(meta.gid())
        .u32(meta.mode())
        .u32(time(meta.atime()))
        .u32(time(meta.mtime()))
}

/// Appends an empty set of attributes.
pub(super) fn append_empty(packet: Packet) -> Packet {
    packet.u32(0)
}

/// Returns a path's bytes.
pub(super) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_order_and_extensions_are_skipped() {
        let wire = Packet::new(0)
            .u32(SIZE | PERMISSIONS | TIMES | EXTENDED)
            .u64(9)
            .u32(0o100_644)
            .u32(1)
            .u32(2)
            .u32(1)
            .bytes(b"name")
            .bytes(b"value")
            .bytes(b"next");
        let wire = wire.finish().unwrap();
        let mut fields = Fields::new(&wire[5..]);
        let change = AttributeChange::read(&mut fields).unwrap();
        let expected =
            AttributeChange { size: Some(9), owner: None, permissions: Some(0o100_644), times: Some((1, 2)) };
        assert_eq!(change, expected);
        assert_eq!(change.mode(0).as_raw_mode(), 0o644);
        assert_eq!(fields.bytes(), Ok(&b"next"[..]));
    }

    #[test]
    fn a_count_of_missing_extensions_is_rejected() {
        let wire = Packet::new(0).u32(EXTENDED).u32(u32::MAX).finish().unwrap();
        assert_eq!(AttributeChange::read(&mut Fields::new(&wire[5..])), Err(Malformed));
    }
}
