//! A file, folder or symbolic link as a stream of bytes, and both of its ends: [`pack`] and [`unpack`].
//!
//! ```text
//! stream = magic, item, end
//! item   = link | file, part …, whole | folder, item …, leave
//! ```
//!
//! Names are single components, never paths: what is unpacked is made in the folder that was entered last, by its
//! descriptor, and no link is ever gone through. So a stream cannot name anything outside of where it is unpacked to.
//! Both ends block; `client` and `agent` put threads, processes and connections around them.

mod pack;
mod stream;
mod unpack;

pub use pack::{PackError, Source, pack, pack_input};
pub use stream::{Entry, Item, MAX_DEPTH, MAX_NAME, MAX_PART, MAX_TARGET, Part, Reader, StreamError, Writer};
pub use unpack::{UnpackError, Unpacked, unpack, unpack_into};
