//! A message: its number and fields (RFC 4251, 5).

use bytes::Bytes;

/// Error for a missing or truncated field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The unread part of a message.
#[derive(Debug, Clone)]
pub(crate) struct Fields(Bytes);

impl Fields {
    pub(crate) fn new(message: Bytes) -> Self {
        Self(message)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|byte| byte.first().copied().unwrap_or_default())
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        self.byte().map(|byte| byte != 0)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Malformed)
    }

    /// Reads a length and that many bytes.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// Reads a length and that many bytes as text; replaces invalid UTF-8.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<Bytes, Malformed> {
        if count > self.0.len() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(count))
    }
}

/// A message under construction.
#[derive(Debug, Clone)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new(number: u8) -> Self {
        Self(vec![number])
    }

    /// Returns fields without a message number.
    pub(crate) fn fields() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn boolean(mut self, value: bool) -> Self {
        self.0.push(value.into());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        // The bytes fit in a packet.
        self = self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends bytes without their length.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a non-negative multiple-precision number, without needless bytes.
    pub(crate) fn mpint(self, number: &[u8]) -> Self {
        let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
        let number = number.get(start..).unwrap_or_default();
        let negative = number.first().is_some_and(|byte| byte & 0x80 != 0);
        let sign: &[u8] = if negative { &[0] } else { &[] };
        self.bytes(&[sign, number].concat())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn encoded_fields_are_decoded_unchanged(
            a in any::<u32>(),
            b in any::<bool>(),
            text in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let message = Message::new(9).u32(a).bytes(&text).boolean(b);
            let mut fields = Fields::new(Bytes::copy_from_slice(message.as_bytes()));
            prop_assert_eq!((fields.byte(), fields.u32()), (Ok(9), Ok(a)));
            prop_assert_eq!(fields.bytes().unwrap(), text);
            prop_assert_eq!((fields.boolean(), fields.byte()), (Ok(b), Err(Malformed)));
        }

        #[test]
        fn decoding_any_bytes_returns_fields_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let mut fields = Fields::new(bytes.into());
            while fields.bytes().is_ok() {}
        }
    }

    #[test]
    fn mpints_are_encoded_as_in_the_rfc() {
        // RFC 4251, 5.
        for (number, wire) in [
            (&[0, 0][..], &[0, 0, 0, 0][..]),
            (&[0, 0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0x09, 0xa3, 0x78], &[0, 0, 0, 3, 0x09, 0xa3, 0x78]),
        ] {
            assert_eq!(Message::fields().mpint(number).as_bytes(), wire);
        }
    }
}
