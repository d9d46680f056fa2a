//! The transport: versions, key exchanges whenever the client starts one, and messages between them.

use bytes::{Bytes, BytesMut};

use super::{
    HostKey, Message,
    cipher::Cipher,
    error::WireError,
    exchange::{self, ECDH_INIT, Handshake, Hash, KEXINIT, NEWKEYS},
};

/// This side's version. OpenSSH reports that a program's output lost its reader only to servers called OpenSSH.
const VERSION: &str = concat!("SSH-2.0-OpenSSH_for_banger_", env!("CARGO_PKG_VERSION"));

/// Maximum length of a version line (RFC 4253).
const MAX_VERSION_LENGTH: usize = 255;

const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;

/// The server's side of a transport.
#[derive(Debug)]
pub(in crate::ssh) struct Transport {
    key: HostKey,
    incoming: BytesMut,
    outgoing: BytesMut,
    client_version: Option<Bytes>,
    opening: Cipher,
    sealing: Cipher,
    /// This side's offer in the current exchange.
    our_offer: Option<Message>,
    /// The client's offer in the current exchange.
    their_offer: Option<Bytes>,
    /// Cipher for the client's packets once it has sent its NEWKEYS.
    next_opening: Option<Cipher>,
    session: Option<Hash>,
    /// Whether the next packet is a wrong guess, to be skipped.
    skip: bool,
    /// Number of packets received.
    received: u32,
}

impl Transport {
    pub(in crate::ssh) fn new(key: HostKey) -> Result<Self, WireError> {
        let mut transport = Self {
            key,
            incoming: BytesMut::new(),
            outgoing: BytesMut::from(format!("{VERSION}\r\n").as_bytes()),
            client_version: None,
            opening: Cipher::Clear,
            sealing: Cipher::Clear,
            our_offer: None,
            their_offer: None,
            next_opening: None,
            session: None,
            skip: false,
            received: 0,
        };
        transport.offer()?;
        Ok(transport)
    }

    /// Returns the buffers for incoming and outgoing bytes.
    pub(in crate::ssh) fn buffers(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.incoming, &mut self.outgoing)
    }

    /// Returns whether a key exchange is in progress, during which nothing else may be sent.
    pub(in crate::ssh) fn is_exchanging(&self) -> bool {
        self.our_offer.is_some()
    }

    /// Sends a message.
    pub(in crate::ssh) fn send(&mut self, message: &Message) -> Result<(), WireError> {
        self.sealing.seal(message.as_bytes(), &mut self.outgoing)
    }

    /// Reports that the last received message is not supported.
    pub(in crate::ssh) fn unimplemented(&mut self) -> Result<(), WireError> {
        let number = self.received.wrapping_sub(1);
        self.send(&Message::new(UNIMPLEMENTED).u32(number))
    }

    /// Returns the next message that the transport does not handle itself; `None` if more bytes are needed.
    pub(in crate::ssh) fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        if self.client_version.is_none() && !self.read_version()? {
            return Ok(None);
        }
        while let Some(message) = self.opening.open(&mut self.incoming)? {
            self.received = self.received.wrapping_add(1);
            if std::mem::take(&mut self.skip) {
                continue;
            }
            match message.first().copied().ok_or(WireError::Malformed)? {
                DISCONNECT => return Err(WireError::Disconnected),
                IGNORE | UNIMPLEMENTED | DEBUG => {}
                KEXINIT if self.their_offer.is_none() && self.next_opening.is_none() => {
                    self.skip = exchange::negotiate(message.clone())?;
                    self.their_offer = Some(message);
                    if self.our_offer.is_none() {
                        self.offer()?;
                    }
                }
                ECDH_INIT => self.exchange(message)?,
                NEWKEYS => self.opening = self.next_opening.take().ok_or(WireError::Unexpected(NEWKEYS))?,
                number if self.is_between_keys() => return Err(WireError::Unexpected(number)),
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    fn is_between_keys(&self) -> bool {
        self.session.is_none() || self.their_offer.is_some() || self.next_opening.is_some()
    }

    /// Reads the client's version; returns false if more bytes are needed.
    fn read_version(&mut self) -> Result<bool, WireError> {
        let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') else {
            return if self.incoming.len() > MAX_VERSION_LENGTH {
                Err(WireError::Version)
            } else {
                Ok(false)
            };
        };
        let mut line = self.incoming.split_to(end + 1);
        line.truncate(end);
        if line.ends_with(b"\r") {
            line.truncate(end - 1);
        }
        if !line.starts_with(b"SSH-2.0-") || line.len() > MAX_VERSION_LENGTH {
            return Err(WireError::Version);
        }
        self.client_version = Some(line.freeze());
        Ok(true)
    }

    fn offer(&mut self) -> Result<(), WireError> {
        let offer = exchange::offer()?;
        self.send(&offer)?;
        self.our_offer = Some(offer);
        Ok(())
    }

    fn exchange(&mut self, message: Bytes) -> Result<(), WireError> {
        let unexpected = WireError::Unexpected(ECDH_INIT);
        let (Some(ours), Some(theirs), Some(version)) =
            (self.our_offer.take(), self.their_offer.take(), self.client_version.as_ref())
        else {
            return Err(unexpected);
        };
        let handshake = Handshake {
            client_version: version,
            server_version: VERSION.as_bytes(),
            client_offer: &theirs,
            server_offer: ours.as_bytes(),
        };
        let exchanged = exchange::answer(&handshake, message, &self.key)?;
        let [opening, sealing] = exchanged.ciphers(self.session.get_or_insert(exchanged.hash))?;
        self.send(&exchanged.reply)?;
        self.send(&Message::new(NEWKEYS))?;
        self.sealing = sealing;
        self.next_opening = Some(opening);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::{
        agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
        digest::{SHA256, digest},
        rand::SystemRandom,
        signature,
    };

    use super::*;
    use crate::ssh::wire::Fields;

    fn transport() -> Transport {
        Transport::new(HostKey::read(&HostKey::generate().unwrap()).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_before_the_key_exchange_yield_no_message(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            greeted in any::<bool>(),
        ) {
            let mut transport = transport();
            if greeted {
                transport.incoming.extend_from_slice(b"SSH-2.0-x\r\n");
            }
            transport.incoming.extend_from_slice(&bytes);
            prop_assert!(!matches!(transport.next(), Ok(Some(_))));
        }

        #[test]
        fn connection_messages_before_the_key_exchange_are_rejected(
            number in 50u8..=255,
            rest in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut transport = transport();
            transport.incoming.extend_from_slice(b"SSH-2.0-x\n");
            let payload = [&[number], rest.as_slice()].concat();
            Cipher::Clear.seal(&payload, &mut transport.incoming).unwrap();
            prop_assert!(matches!(transport.next(), Err(WireError::Unexpected(_))));
        }
    }

    /// Runs the client's side of an exchange with `server`.
    fn exchange_keys(server: &mut Transport, client: &mut Client) -> Result<(), WireError> {
        let offer = exchange::offer()?;
        client.send(&offer, server);
        server.next()?;
        let their_offer = client.receive(server).ok_or(WireError::Malformed)?;
        assert_eq!(their_offer.first(), Some(&KEXINIT));
        let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let point = secret.compute_public_key().unwrap();
        client.send(&Message::new(ECDH_INIT).bytes(point.as_ref()), server);
        assert!(server.next()?.is_none());
        let mut reply = Fields::new(client.receive(server).unwrap());
        reply.byte()?;
        let (blob, theirs, signature) = (reply.bytes()?, reply.bytes()?, reply.bytes()?);
        let peer = UnparsedPublicKey::new(&X25519, &theirs);
        let shared = agree_ephemeral(secret, &peer, |shared| Message::fields().mpint(shared)).unwrap();
        let hashed = [b"SSH-2.0-client", VERSION.as_bytes(), offer.as_bytes(), &their_offer, &blob]
            .iter()
            .fold(Message::fields(), |fields, field| fields.bytes(field));
        let hashed = hashed.bytes(point.as_ref()).bytes(&theirs).raw(shared.as_bytes());
        let hash: Hash = digest(&SHA256, hashed.as_bytes()).as_ref().try_into().unwrap();
        let key = blob.get(blob.len() - 32..).unwrap();
        let signature = signature.get(signature.len() - 64..).unwrap();
        signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(&hash, signature).unwrap();
        assert_eq!(client.receive(server).unwrap(), [NEWKEYS].as_slice());
        client.send(&Message::new(NEWKEYS), server);
        assert!(server.next()?.is_none());
        let session = *client.session.get_or_insert(hash);
        let derive = |letter: u8| {
            let hashed = [shared.as_bytes(), &hash, &[letter], &session].concat();
            digest(&SHA256, &hashed).as_ref().to_vec()
        };
        let cipher = |key: u8, nonce: u8| Cipher::new(&derive(key), *derive(nonce).first_chunk().unwrap());
        (client.sealing, client.opening) = (cipher(b'C', b'A')?, cipher(b'D', b'B')?);
        Ok(())
    }

    struct Client {
        sealing: Cipher,
        opening: Cipher,
        session: Option<Hash>,
    }

    impl Client {
        fn send(&mut self, message: &Message, to: &mut Transport) {
            self.sealing.seal(message.as_bytes(), &mut to.incoming).unwrap();
        }

        fn receive(&mut self, from: &mut Transport) -> Option<Bytes> {
            self.opening.open(&mut from.outgoing).unwrap()
        }
    }

    #[test]
    fn the_client_can_exchange_keys_at_the_start_and_again() {
        let mut server = transport();
        let greeting = server.outgoing.split_to(VERSION.len() + 2);
        assert_eq!(greeting, format!("{VERSION}\r\n"));
        server.incoming.extend_from_slice(b"SSH-2.0-client\r\n");
        let mut client = Client { sealing: Cipher::Clear, opening: Cipher::Clear, session: None };
        for round in 0..3_u8 {
            exchange_keys(&mut server, &mut client).unwrap();
            assert!(!server.is_exchanging());
            client.send(&Message::new(100 + round).bytes(b"data"), &mut server);
            assert_eq!(server.next().unwrap().unwrap().first(), Some(&(100 + round)));
            server.send(&Message::new(200 + round)).unwrap();
            assert_eq!(client.receive(&mut server).unwrap(), [200 + round].as_slice());
        }
        // During an exchange, other messages are refused.
        client.send(&exchange::offer().unwrap(), &mut server);
        client.send(&Message::new(94), &mut server);
        assert!(matches!(server.next(), Err(WireError::Unexpected(94))));
    }

    #[test]
    fn only_ssh_version_2_is_accepted() {
        for line in ["SSH-1.99-x\r\n", "GET / HTTP/1.1\r\n", "\n", &"x".repeat(256)] {
            let mut transport = transport();
            transport.incoming.extend_from_slice(line.as_bytes());
            assert!(matches!(transport.next(), Err(WireError::Version)), "{line}");
        }
    }
}
