//! The guest's bytes: frames, streams of files, and listings. Nothing here checks what it encodes.

use banger_proto::{Frame, GENERATION, Greeting, Reply};
use bytes::BytesMut;
use serde::Serialize;

/// First bytes of a stream of files.
pub(crate) const STREAM_MAGIC: &[u8; 4] = b"bng\x01";

/// First bytes of a listing.
pub(crate) const LISTING_MAGIC: &[u8; 4] = b"bnl\x01";

/// Length that marks a file whose rest could not be read.
const BROKEN: u32 = u32::MAX;

/// An item of a stream of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Enters a directory.
    Directory(Vec<u8>),
    /// Leaves it.
    Leave,
    /// A whole file.
    File(Vec<u8>, Vec<u8>),
    /// A file whose end could not be read.
    BrokenFile(Vec<u8>, Vec<u8>),
    /// A file whose part claims this length.
    FileOfLength(Vec<u8>, u32),
    /// A symbolic link, and its target.
    Link(Vec<u8>, Vec<u8>),
    /// Removes a file.
    Remove(Vec<u8>),
    /// The end.
    End,
    /// Any bytes.
    Raw(Vec<u8>),
}

/// A record of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its kind: 1 is a file, 2 a link.
    pub kind: u8,
    /// Its path.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time in seconds.
    pub modified: i64,
    /// Nanoseconds of the modification time.
    pub nanoseconds: u32,
    /// Time of the last change in seconds.
    pub changed: i64,
}

/// Encodes a stream of files.
#[must_use]
pub fn stream(items: &[Item]) -> Vec<u8> {
    let mut out = STREAM_MAGIC.to_vec();
    for item in items {
        put_item(&mut out, item);
    }
    out
}

fn put_item(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::Directory(name) => put_entry(out, 1, 0o755, name),
        Item::Leave => out.push(2),
        Item::File(name, content) => {
            put_entry(out, 3, 0o644, name);
            put_parts(out, content);
            out.extend(0_u32.to_be_bytes());
        }
        Item::BrokenFile(name, content) => {
            put_entry(out, 3, 0o4755, name);
            put_parts(out, content);
            out.extend(BROKEN.to_be_bytes());
        }
        Item::FileOfLength(name, length) => {
            put_entry(out, 3, u32::MAX, name);
            out.extend(length.to_be_bytes());
        }
        Item::Link(name, target) => {
            put_entry(out, 4, 0o777, name);
            put_bytes(out, target);
        }
        Item::Remove(name) => {
            out.push(6);
            put_bytes(out, name);
        }
        Item::End => out.push(5),
        Item::Raw(bytes) => out.extend(bytes),
    }
}

fn put_entry(out: &mut Vec<u8>, kind: u8, mode: u32, name: &[u8]) {
    out.push(kind);
    out.extend(mode.to_be_bytes());
    out.extend(7_i64.to_be_bytes());
    out.extend(8_u32.to_be_bytes());
    put_bytes(out, name);
}

fn put_parts(out: &mut Vec<u8>, content: &[u8]) {
    for part in content.chunks(banger_files::MAX_PART) {
        out.extend(u32::try_from(part.len()).unwrap_or(0).to_be_bytes());
        out.extend(part);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(bytes);
}

/// Encodes a listing; `ends` says whether it has an end.
#[must_use]
pub fn listing(records: &[Listed], ends: bool) -> Vec<u8> {
    let mut out = LISTING_MAGIC.to_vec();
    for record in records {
        put_record(&mut out, record);
    }
    if ends {
        out.push(0);
    }
    out
}

pub(crate) fn put_record(out: &mut Vec<u8>, record: &Listed) {
    out.push(record.kind);
    put_bytes(out, &record.path);
    out.extend(record.mode.to_be_bytes());
    out.extend(record.size.to_be_bytes());
    out.extend(record.modified.to_be_bytes());
    out.extend(record.nanoseconds.to_be_bytes());
    out.extend(record.changed.to_be_bytes());
    out.extend(0_u32.to_be_bytes());
}

/// Encodes a frame.
#[must_use]
pub fn frame(frame: &Frame) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.to_vec()
}

/// Encodes a message.
pub(crate) fn message(message: &impl Serialize) -> Vec<u8> {
    frame(&Frame::Control(serde_json::to_vec(message).unwrap().into()))
}

/// Encodes a reply.
#[must_use]
pub fn reply(reply: &Reply) -> Vec<u8> {
    message(reply)
}

/// Encodes the greeting of a current agent with this version.
#[must_use]
pub fn greeting(version: &str) -> Vec<u8> {
    message(&Greeting {
        generation: GENERATION,
        version: version.to_owned(),
        boot_id: "boot".to_owned(),
        boot: Vec::new(),
        init: None,
    })
}
