//! Carries out SFTP requests and builds their responses.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, symlink},
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags, StatVfs, fstatvfs, mkdir, open, renameat_with, statvfs},
    io::Errno,
};

use super::{
    attributes::{AttributeChange, append, append_empty, bytes_of},
    handles::{Handle, Handles, MAX_HANDLES},
    listing::Names,
    packet::{Fields, MAX_DATA, MAX_PACKET, Packet},
    path::{canonical, expand_tilde, path},
    status::{StatusError, status},
};

/// The protocol version of this server.
const VERSION: u32 = 3;

/// OpenSSH's extensions that this server supports, with their versions.
const EXTENSIONS: [(&[u8], &[u8]); 8] = [
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
];

/// Maximum number of directory entries in one response.
const MAX_ENTRIES: usize = 100;

/// Packet types: requests, and responses other than a status.
mod kind {
    pub(super) const INIT: u8 = 1;
    pub(super) const VERSION: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    pub(super) const READ: u8 = 5;
    pub(super) const WRITE: u8 = 6;
    pub(super) const LSTAT: u8 = 7;
    pub(super) const FSTAT: u8 = 8;
    pub(super) const SETSTAT: u8 = 9;
    pub(super) const FSETSTAT: u8 = 10;
    pub(super) const OPENDIR: u8 = 11;
    pub(super) const READDIR: u8 = 12;
    pub(super) const REMOVE: u8 = 13;
    pub(super) const MKDIR: u8 = 14;
    pub(super) const RMDIR: u8 = 15;
    pub(super) const REALPATH: u8 = 16;
    pub(super) const STAT: u8 = 17;
    pub(super) const RENAME: u8 = 18;
    pub(super) const READLINK: u8 = 19;
    pub(super) const SYMLINK: u8 = 20;
    pub(super) const HANDLE: u8 = 102;
    pub(super) const DATA: u8 = 103;
    pub(super) const NAME: u8 = 104;
    pub(super) const ATTRS: u8 = 105;
    pub(super) const EXTENDED: u8 = 200;
    pub(super) const EXTENDED_REPLY: u8 = 201;
}

/// Flags for opening a file.
mod open_flag {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 16;
    pub(super) const EXCLUSIVE: u32 = 32;
}

/// A session's state.
#[derive(Debug, Default)]
pub(super) struct Server {
    handles: Handles,
    names: Names,
}

/// A response: a packet, or `None` for a status of success.
type Response = Result<Option<Packet>, StatusError>;

impl Server {
    /// Returns the encoded response to `packet`.
    pub(super) fn respond(&mut self, packet: &[u8]) -> io::Result<Vec<u8>> {
        let mut fields = Fields::new(packet);
        let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "packet without a request id");
        let kind = fields.byte().map_err(malformed)?;
        if kind == kind::INIT {
            return version().finish();
        }
        let id = fields.u32().map_err(malformed)?;
        match self.execute(kind, id, &mut fields) {
            Ok(Some(response)) => response.finish(),
            Ok(None) => status(id, Ok(())).finish(),
            Err(error) => status(id, Err(error)).finish(),
        }
    }

    fn execute(&mut self, kind: u8, id: u32, fields: &mut Fields<'_>) -> Response {
        match kind {
            kind::OPEN => self.open(id, fields),
            kind::CLOSE => done(self.handles.close(fields.bytes()?)),
            kind::READ => self.read(id, fields),
            kind::WRITE => done(self.write(fields)),
            kind::LSTAT => attributes(id, &fs::symlink_metadata(path(fields.bytes()?))?),
            kind::STAT => attributes(id, &fs::metadata(path(fields.bytes()?))?),
            kind::FSTAT => attributes(id, &self.handles.file(fields.bytes()?)?.0.metadata()?),
            kind::SETSTAT => {
                let path = path(fields.bytes()?);
                done(AttributeChange::read(fields)?.apply(&path, true))
            }
            kind::FSETSTAT => {
                let (file, _) = self.handles.file(fields.bytes()?)?;
                done(AttributeChange::read(fields)?.apply_to(file))
            }
            kind::OPENDIR => self.open_dir(id, fields),
            kind::READDIR => self.read_dir(id, fields),
            kind::REMOVE => done(fs::remove_file(path(fields.bytes()?))),
            kind::MKDIR => {
                let path = path(fields.bytes()?);
                done(mkdir(&path, AttributeChange::read(fields)?.mode(0o777)))
            }
            kind::RMDIR => done(fs::remove_dir(path(fields.bytes()?))),
            kind::REALPATH => name(id, bytes_of(&canonical(&path(fields.bytes()?))?)),
            kind::RENAME => done(rename(fields)),
            kind::READLINK => name(id, bytes_of(&fs::read_link(path(fields.bytes()?))?)),
            kind::SYMLINK => {
                // OpenSSH sends the target first, contrary to the draft, and all other clients now do the same.
                let (target, link) = (path(fields.bytes()?), path(fields.bytes()?));
                done(symlink(target, link))
            }
            kind::EXTENDED => self.extended(id, fields),
            _ => Err(StatusError::Unsupported),
        }
    }

    fn open(&mut self, id: u32, fields: &mut Fields<'_>) -> Response {
        let (path, requested) = (path(fields.bytes()?), fields.u32()?);
        let change = AttributeChange::read(fields)?;
        self.handles.check_capacity()?;
        let file = open(&path, open_flags(requested)?, change.mode(0o666))?;
        let handle = Handle::File { file: File::from(file), appends: requested & open_flag::APPEND != 0 };
        Ok(Some(Packet::with_id(kind::HANDLE, id).bytes(&self.handles.add(handle))))
    }

    fn read(&mut self, id: u32, fields: &mut Fields<'_>) -> Response {
        let (handle, offset, length) = (fields.bytes()?, fields.u64()?, fields.u32()?);
        let (file, _) = self.handles.file(handle)?;
        let mut buffer = vec![0; MAX_DATA.min(length as usize)];
        match file.read_at(&mut buffer, offset)? {
            0 if !buffer.is_empty() => Err(StatusError::End),
            count => {
                buffer.truncate(count);
                Ok(Some(Packet::with_id(kind::DATA, id).bytes(&buffer)))
            }
        }
    }

    fn write(&mut self, fields: &mut Fields<'_>) -> Result<(), StatusError> {
        let (handle, offset, bytes) = (fields.bytes()?, fields.u64()?, fields.bytes()?);
        let (file, appends) = self.handles.file(handle)?;
        if appends {
            return Ok(io::Write::write_all(file, bytes)?);
        }
        Ok(file.write_all_at(bytes, offset)?)
    }

    fn open_dir(&mut self, id: u32, fields: &mut Fields<'_>) -> Response {
        let path = path(fields.bytes()?);
        self.handles.check_capacity()?;
        let entries = fs::read_dir(&path)?;
        let handle = self.handles.add(Handle::Directory { path, entries });
        Ok(Some(Packet::with_id(kind::HANDLE, id).bytes(&handle)))
    }

    fn read_dir(&mut self, id: u32, fields: &mut Fields<'_>) -> Response {
        let Handle::Directory { path, entries } = self.handles.get(fields.bytes()?)? else {
            return Err(StatusError::Malformed);
        };
        let mut batch = Vec::new();
        while batch.len() < MAX_ENTRIES {
            let Some(entry) = entries.next() else { break };
            let name = entry?.file_name();
            // It may have been deleted meanwhile.
            if let Ok(meta) = fs::symlink_metadata(path.join(&name)) {
                batch.push((name.into_encoded_bytes(), meta));
            }
        }
        if batch.is_empty() {
            return Err(StatusError::End);
        }
        let count = u32::try_from(batch.len()).unwrap_or_default();
        let mut packet = Packet::with_id(kind::NAME, id).u32(count);
        for (name, meta) in batch {
            packet = append(packet.bytes(&name).bytes(&self.names.line(&name, &meta)), &meta);
        }
        Ok(Some(packet))
    }

    fn extended(&mut self, id: u32, fields: &mut Fields<'_>) -> Response {
        match fields.bytes()? {
            b"posix-rename@openssh.com" => {
                let (from, to) = (path(fields.bytes()?), path(fields.bytes()?));
                done(fs::rename(from, to))
            }
            b"hardlink@openssh.com" => {
                let (from, to) = (path(fields.bytes()?), path(fields.bytes()?));
                done(fs::hard_link(from, to))
            }
            b"lsetstat@openssh.com" => {
                let path = path(fields.bytes()?);
                done(AttributeChange::read(fields)?.apply(&path, false))
            }
            b"statvfs@openssh.com" => Ok(Some(file_system_stats(id, &statvfs(path(fields.bytes()?))?))),
            b"fstatvfs@openssh.com" => {
                Ok(Some(file_system_stats(id, &fstatvfs(&*self.handles.file(fields.bytes()?)?.0)?)))
            }
            b"fsync@openssh.com" => done(self.handles.file(fields.bytes()?)?.0.sync_all()),
            b"expand-path@openssh.com" => name(id, bytes_of(&canonical(&expand_tilde(fields.bytes()?)?)?)),
            b"limits@openssh.com" => Ok(Some(limits(id))),
            _ => Err(StatusError::Unsupported),
        }
    }
}

fn version() -> Packet {
    let version = Packet::new(kind::VERSION).u32(VERSION);
    EXTENSIONS.iter().fold(version, |packet, (name, version)| packet.bytes(name).bytes(version))
}

fn done<E: Into<StatusError>>(outcome: Result<(), E>) -> Response {
    outcome.map(|()| None).map_err(Into::into)
}

fn attributes(id: u32, meta: &Metadata) -> Response {
    Ok(Some(append(Packet::with_id(kind::ATTRS, id), meta)))
}

/// Returns a single name without attributes.
fn name(id: u32, bytes: &[u8]) -> Response {
    Ok(Some(append_empty(Packet::with_id(kind::NAME, id).u32(1).bytes(bytes).bytes(bytes))))
}

fn open_flags(requested: u32) -> Result<OFlags, StatusError> {
    let mut flags =
        match (requested & open_flag::READ != 0, requested & (open_flag::WRITE | open_flag::APPEND) != 0) {
            (true, true) => OFlags::RDWR,
            (true, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (false, false) => return Err(StatusError::Malformed),
        };
    for (bit, flag) in [
        (open_flag::APPEND, OFlags::APPEND),
        (open_flag::CREATE, OFlags::CREATE),
        (open_flag::TRUNCATE, OFlags::TRUNC),
        (open_flag::EXCLUSIVE, OFlags::EXCL),
    ] {
        if requested & bit != 0 {
            flags |= flag;
        }
    }
    // Opening a terminal must not make it the session's controlling terminal.
    Ok(flags | OFlags::CLOEXEC | OFlags::NOCTTY)
}

/// Renames as the draft requires: without replacing the target.
fn rename(fields: &mut Fields<'_>) -> Result<(), StatusError> {
    let (from, to) = (path(fields.bytes()?), path(fields.bytes()?));
    match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
        // The file system does not support `NOREPLACE`.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(&to).is_err() => Ok(fs::rename(from, to)?),
        renamed => Ok(renamed?),
    }
}

/// Returns a file system's size and free space, in the fields of statvfs(3).
fn file_system_stats(id: u32, stats: &StatVfs) -> Packet {
    [
        stats.f_bsize,
        stats.f_frsize,
        stats.f_blocks,
        stats.f_bfree,
        stats.f_bavail,
        stats.f_files,
        stats.f_ffree,
        stats.f_favail,
        stats.f_fsid,
        // The bits for read-only and no set-user-id are the same in SFTP.
        stats.f_flag.bits() & 3,
        stats.f_namemax,
    ]
    .iter()
    .fold(Packet::with_id(kind::EXTENDED_REPLY, id), |packet, value| packet.u64(*value))
}

fn limits(id: u32) -> Packet {
    [MAX_PACKET, MAX_DATA, MAX_DATA, MAX_HANDLES]
        .iter()
        .fold(Packet::with_id(kind::EXTENDED_REPLY, id), |packet, value| packet.u64(*value as u64))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use proptest::prelude::*;

    use super::*;

    /// Sends a request of type `kind` with the fields from `fill`; returns the response's type and fields.
    fn send(server: &mut Server, kind: u8, fill: impl FnOnce(Packet) -> Packet) -> (u8, Vec<u8>) {
        let request = fill(Packet::with_id(kind, 7)).finish().unwrap();
        let response = server.respond(&request[4..]).unwrap();
        assert_eq!(response[5..9], 7u32.to_be_bytes());
        (response[4], response[9..].to_vec())
    }

    fn code(response: (u8, Vec<u8>)) -> u32 {
        assert_eq!(response.0, 101);
        Fields::new(&response.1).u32().unwrap()
    }

    fn handle(response: (u8, Vec<u8>)) -> Vec<u8> {
        assert_eq!(response.0, kind::HANDLE);
        Fields::new(&response.1).bytes().unwrap().to_vec()
    }

    fn open_file(server: &mut Server, path: &Path, requested: u32) -> (u8, Vec<u8>) {
        send(server, kind::OPEN, |packet| packet.bytes(bytes_of(path)).u32(requested).u32(4).u32(0o640))
    }

    #[test]
    fn files_are_read_and_written_at_any_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut server = Server::default();
        let file = handle(open_file(
            &mut server,
            &path,
            open_flag::READ | open_flag::WRITE | open_flag::CREATE | open_flag::TRUNCATE,
        ));
        for (offset, text) in [(6, "world"), (0, "hello ")] {
            let wrote = send(&mut server, kind::WRITE, |p| p.bytes(&file).u64(offset).bytes(text.as_bytes()));
            assert_eq!(code(wrote), 0);
        }
        let (kind, data) = send(&mut server, kind::READ, |p| p.bytes(&file).u64(3).u32(u32::MAX));
        assert_eq!((kind, &data[4..]), (kind::DATA, &b"lo world"[..]));
        assert_eq!(code(send(&mut server, kind::READ, |p| p.bytes(&file).u64(11).u32(1))), 1);
        assert_eq!(code(send(&mut server, kind::CLOSE, |p| p.bytes(&file))), 0);
        assert_eq!(code(send(&mut server, kind::CLOSE, |p| p.bytes(&file))), 5);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(
            code(open_file(&mut server, &path, open_flag::WRITE | open_flag::CREATE | open_flag::EXCLUSIVE)),
            4
        );
        assert_eq!(code(open_file(&mut server, &dir.path().join("none"), open_flag::READ)), 2);
    }

    #[test]
    fn appending_ignores_the_offset_in_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut server = Server::default();
        let file = handle(open_file(&mut server, &path, open_flag::WRITE | open_flag::APPEND));
        assert_eq!(code(send(&mut server, kind::WRITE, |p| p.bytes(&file).u64(0).bytes(b" two"))), 0);
        assert_eq!(fs::read(&path).unwrap(), b"one two");
    }

    #[test]
    fn only_a_posix_rename_replaces_an_existing_file() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let mut server = Server::default();
        let paths = |packet: Packet| packet.bytes(bytes_of(&a)).bytes(bytes_of(&b));
        assert_eq!(code(send(&mut server, kind::RENAME, paths)), 4);
        let posix = |packet: Packet| paths(packet.bytes(b"posix-rename@openssh.com"));
        assert_eq!(code(send(&mut server, kind::EXTENDED, posix)), 0);
        assert_eq!(fs::read(&b).unwrap(), b"a");
        assert!(!a.exists());
        let back = |packet: Packet| packet.bytes(bytes_of(&b)).bytes(bytes_of(&a));
        assert_eq!(code(send(&mut server, kind::RENAME, back)), 0);
    }

    #[test]
    fn a_large_directory_is_listed_in_several_responses() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1234 {
            fs::write(dir.path().join(format!("{number:0200}")), "").unwrap();
        }
        let mut server = Server::default();
        let dir_handle = handle(send(&mut server, kind::OPENDIR, |p| p.bytes(bytes_of(dir.path()))));
        let mut total = 0;
        loop {
            let (kind, response) = send(&mut server, kind::READDIR, |p| p.bytes(&dir_handle));
            if kind != kind::NAME {
                assert_eq!(code((kind, response)), 1);
                break;
            }
            total += Fields::new(&response).u32().unwrap();
        }
        assert_eq!(total, 1234);
    }

    #[test]
    fn a_symlink_request_has_the_target_first() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        let mut server = Server::default();
        let fill = |packet: Packet| packet.bytes(b"target").bytes(bytes_of(&link));
        assert_eq!(code(send(&mut server, kind::SYMLINK, fill)), 0);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("target"));
        let (kind, response) = send(&mut server, kind::READLINK, |p| p.bytes(bytes_of(&link)));
        assert_eq!((kind, &response[8..14]), (kind::NAME, &b"target"[..]));
        let (_, stat) = send(&mut server, kind::LSTAT, |p| p.bytes(bytes_of(&link)));
        assert_eq!(stat.len(), 32);
        assert_eq!(code(send(&mut server, kind::STAT, |p| p.bytes(bytes_of(&link)))), 2);
    }

    #[test]
    fn the_number_of_open_handles_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::default();
        for _ in 0..MAX_HANDLES {
            handle(send(&mut server, kind::OPENDIR, |p| p.bytes(bytes_of(dir.path()))));
        }
        assert_eq!(code(send(&mut server, kind::OPENDIR, |p| p.bytes(bytes_of(dir.path())))), 4);
    }

    #[test]
    fn the_version_response_lists_the_extensions() {
        let response = Server::default().respond(&[kind::INIT, 0, 0, 0, 3]).unwrap();
        let text = String::from_utf8_lossy(&response).into_owned();
        assert_eq!(response[4..9], [kind::VERSION, 0, 0, 0, 3]);
        assert!(text.contains("posix-rename@openssh.com") && text.contains("limits@openssh.com"));
    }

    proptest! {
        #[test]
        fn any_request_without_a_path_gets_a_status_response(kind in prop_oneof![4u8..7, Just(8), Just(10), Just(12), 21u8..=199],
            rest in prop::collection::vec(any::<u8>(), 4..60)) {
            let packet = [&[kind], rest.as_slice()].concat();
            let response = Server::default().respond(&packet).unwrap();
            prop_assert_eq!(response[4], 101);
        }
    }
}
