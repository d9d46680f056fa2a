//! Messages of netlink, as bytes (`linux/netlink.h`).

use std::io;

/// Length of a message's header, in bytes.
pub(super) const HEADER_LEN: usize = 16;

/// Length of an attribute's header, in bytes.
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// Types of messages that every protocol has.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of requests.
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;

/// Appends an attribute, padded to 4 bytes.
pub(super) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Values are addresses, numbers and names.
    let length = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Returns a complete request.
pub(super) fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER_LEN + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes()); // the kernel knows the sender
    message.extend(body);
    Ok(message)
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// Returns whether the message ends the answer to a request; the error if the kernel refused it.
    pub(super) fn ends_answer(&self) -> io::Result<bool> {
        match self.kind {
            DONE => Ok(true),
            ERROR => match number(self.body, 0).map(u32::cast_signed) {
                Some(0) => Ok(true),
                Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                None => Err(io::Error::other("the kernel's reply is cut off")),
            },
            _ => Ok(false),
        }
    }
}

/// Splits received bytes into messages. Bytes that are no message end the list.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let message = Message { kind, sequence: number(bytes, 8)?, body: bytes.get(HEADER_LEN..length)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits bytes into attributes, by type and value. Bytes that are no attribute end the list.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the number of 32 bits at `offset`.
pub(super) fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_split_and_short_ones_end_the_list() {
        let mut body = Vec::new();
        attribute(&mut body, 7, b"abcde");
        attribute(&mut body, 8, &[]);
        let mut bytes = request(20, ACK, 9, &body).unwrap();
        bytes.extend(request(21, 0, 10, &[]).unwrap());
        let parsed: Vec<_> = messages(&bytes).collect();
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].kind, parsed[0].sequence, parsed[1].kind), (20, 9, 21));
        let attributes: Vec<_> = attributes(parsed[0].body).collect();
        assert_eq!(attributes, [(7, b"abcde".as_slice()), (8, &[])]);
        for cut in 0..bytes.len() {
            assert!(messages(&bytes[..cut]).count() < 2);
            assert!(super::attributes(&body[..cut.min(body.len() - 1)]).count() < 2);
        }
    }

    #[test]
    fn an_answer_ends_with_an_acknowledgement_an_error_or_done() {
        let ends = |kind, body: &[u8]| Message { kind, sequence: 1, body }.ends_answer();
        assert!(ends(ERROR, &0i32.to_ne_bytes()).unwrap());
        assert!(ends(DONE, &[]).unwrap());
        assert!(!ends(20, &[]).unwrap());
        let denied = ends(ERROR, &(-1i32).to_ne_bytes()).unwrap_err();
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
        assert!(ends(ERROR, &[0; 3]).is_err());
    }
}
