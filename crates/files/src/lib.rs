//! Sends a file, directory or symbolic link as a stream of bytes: [`pack`] writes it, [`unpack`] reads it.
//!
//! ```text
//! stream = magic, item, end
//! item   = link | file, part …, whole | directory, item …, leave | remove
//! ```
//!
//! Names are single components, never paths. [`unpack`] creates them relative to the descriptor of the current
//! directory and follows no link, so a stream cannot name anything outside its target. [`unpack_requested`] is for
//! streams of an untrusted sender: the requested path names the copy, not the stream. Both ends block; `client` and
//! `agent` provide the threads, processes and connections.
//!
//! A workspace is such a stream of single paths ([`PathWriter`]). It is [placed](place) as a whole, or applied as
//! [changes](change). A [`list`]ing shows its current state. A [`FileRequest`] compares what arrives with what was
//! requested.

mod copy_request;
mod destination;
mod error;
mod listing;
mod pack;
mod paths;
mod place;
mod request;
mod reserve;
mod stream;
mod tree;
mod unpack;

pub use copy_request::CopyRequest;
pub use error::UnpackError;
pub use listing::{Kind, ListedFile, ListingReader, MAX_LISTED, MAX_LISTED_PATHS, list};
pub use pack::{PackError, Source, pack, pack_input};
pub use paths::{PathWriter, safe_path};
pub use place::{change, place};
pub use request::FileRequest;
pub use stream::{Entry, Item, MAX_DEPTH, MAX_NAME, MAX_PART, MAX_TARGET, Part, Reader, StreamError, Writer};
pub use tree::{FileStat, Time, Tree};
pub use unpack::{Unpacked, unpack, unpack_into, unpack_requested};
