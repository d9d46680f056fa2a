//! A file, folder or symbolic link as a stream of bytes, and both of its ends: [`pack`] and [`unpack`].
//!
//! ```text
//! stream = magic, item, end
//! item   = link | file, part …, whole | folder, item …, leave | remove
//! ```
//!
//! Names are single components, never paths: what is unpacked is made in the folder that was entered last, by its
//! descriptor, and no link is ever gone through. So a stream cannot name anything outside of where it is unpacked to.
//! Both ends block; `client` and `agent` put threads, processes and connections around them.
//!
//! A workspace is such a stream too, of single paths ([`PathWriter`]), and is either [placed](place) whole or
//! [changed](change). What has become of it is told by a [`list`]ing.

mod listing;
mod pack;
mod paths;
mod place;
mod stream;
mod tree;
mod unpack;

pub use listing::{Kind, Listed, ListingReader, MAX_LISTED, list};
pub use pack::{PackError, Source, pack, pack_input};
pub use paths::{PathWriter, safe_path};
pub use place::{change, place};
pub use stream::{Entry, Item, MAX_DEPTH, MAX_NAME, MAX_PART, MAX_TARGET, Part, Reader, StreamError, Writer};
pub use tree::{FileStat, Time, Tree};
pub use unpack::{UnpackError, Unpacked, unpack, unpack_into};
