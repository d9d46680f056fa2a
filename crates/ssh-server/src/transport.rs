//! The transport: versions, key exchanges whenever the client starts one, and messages between them.

use bytes::{Bytes, BytesMut};

use crate::{
    cipher::{Opening, Sealing},
    error::Error,
    exchange::{self, Exchanged, Handshake, Hash, INIT, KEXINIT, NEWKEYS, Negotiated},
    fields::Message,
    host_key::HostKey,
};

/// The server's version. OpenSSH reports that a program's output lost its reader only to servers called OpenSSH.
const VERSION: &str = concat!("SSH-2.0-OpenSSH_for_banger_", env!("CARGO_PKG_VERSION"));

/// Maximum length of a version line (RFC 4253).
const MAX_VERSION_LENGTH: usize = 255;

const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;

/// The server's side of a transport.
#[derive(Debug)]
pub(crate) struct Transport {
    key: HostKey,
    incoming: BytesMut,
    outgoing: BytesMut,
    client_version: Option<Bytes>,
    opening: Opening,
    sealing: Sealing,
    /// The server's offer in the current exchange.
    our_offer: Option<Message>,
    /// The client's offer in the current exchange, and what follows from it.
    their_offer: Option<(Bytes, Negotiated)>,
    /// The exchange that the client has yet to confirm with its NEWKEYS.
    exchanged: Option<(Exchanged, Negotiated)>,
    session: Option<Hash>,
    /// Whether both sides follow the strict rules, agreed on in the first exchange.
    strict: bool,
    /// Whether the next packet is a wrong guess, to be skipped.
    skip: bool,
}

impl Transport {
    pub(crate) fn new(key: HostKey) -> Result<Self, Error> {
        let mut transport = Self {
            key,
            incoming: BytesMut::new(),
            outgoing: BytesMut::from(format!("{VERSION}\r\n").as_bytes()),
            client_version: None,
            opening: Opening::clear(),
            sealing: Sealing::clear(),
            our_offer: None,
            their_offer: None,
            exchanged: None,
            session: None,
            strict: false,
            skip: false,
        };
        transport.offer()?;
        Ok(transport)
    }

    /// Returns the buffers for incoming and outgoing bytes.
    pub(crate) fn buffers(&mut self) -> (&mut BytesMut, &mut BytesMut) {
        (&mut self.incoming, &mut self.outgoing)
    }

    /// Returns whether a key exchange is in progress, during which nothing else may be sent.
    pub(crate) fn is_exchanging(&self) -> bool {
        self.our_offer.is_some()
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &Message) -> Result<(), Error> {
        self.sealing.seal(message.as_bytes(), &mut self.outgoing)
    }

    /// Reports that the last received message is not supported.
    pub(crate) fn unimplemented(&mut self) -> Result<(), Error> {
        let number = self.opening.sequence().wrapping_sub(1);
        self.send(&Message::new(UNIMPLEMENTED).u32(number))
    }

    /// Returns the next message that the transport does not handle itself; `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.client_version.is_none() && !self.read_version()? {
            return Ok(None);
        }
        while let Some(message) = self.opening.open(&mut self.incoming)? {
            if std::mem::take(&mut self.skip) {
                continue;
            }
            match message.first().copied().ok_or(Error::Malformed)? {
                DISCONNECT => return Err(Error::Disconnected),
                IGNORE | UNIMPLEMENTED | DEBUG if !(self.strict && self.opening.is_clear()) => {}
                KEXINIT if self.their_offer.is_none() && self.exchanged.is_none() => {
                    self.receive_offer(message)?;
                }
                INIT => self.exchange(message)?,
                NEWKEYS => self.change_opening()?,
                number if self.is_between_keys() => return Err(Error::Unexpected(number)),
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    fn is_between_keys(&self) -> bool {
        self.session.is_none() || self.their_offer.is_some() || self.exchanged.is_some()
    }

    /// Reads the client's version; returns false if more bytes are needed.
    fn read_version(&mut self) -> Result<bool, Error> {
        let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') else {
            return if self.incoming.len() > MAX_VERSION_LENGTH { Err(Error::Version) } else { Ok(false) };
        };
        let mut line = self.incoming.split_to(end + 1);
        line.truncate(end);
        if line.ends_with(b"\r") {
            line.truncate(end - 1);
        }
        if !line.starts_with(b"SSH-2.0-") || line.len() > MAX_VERSION_LENGTH {
            return Err(Error::Version);
        }
        self.client_version = Some(line.freeze());
        Ok(true)
    }

    fn offer(&mut self) -> Result<(), Error> {
        let offer = exchange::offer()?;
        self.send(&offer)?;
        self.our_offer = Some(offer);
        Ok(())
    }

    fn receive_offer(&mut self, message: Bytes) -> Result<(), Error> {
        let negotiated = exchange::negotiate(message.clone())?;
        if self.session.is_none() {
            self.strict = negotiated.strict;
            // The strict rules allow nothing before it.
            if self.strict && self.opening.sequence() != 1 {
                return Err(Error::Unexpected(KEXINIT));
            }
        }
        self.skip = negotiated.skip;
        self.their_offer = Some((message, negotiated));
        if self.our_offer.is_none() {
            self.offer()?;
        }
        Ok(())
    }

    fn exchange(&mut self, message: Bytes) -> Result<(), Error> {
        let (Some(ours), Some((theirs, negotiated)), Some(version)) =
            (self.our_offer.take(), self.their_offer.take(), self.client_version.as_ref())
        else {
            return Err(Error::Unexpected(INIT));
        };
        let handshake = Handshake {
            client_version: version,
            server_version: VERSION.as_bytes(),
            client_offer: &theirs,
            server_offer: ours.as_bytes(),
        };
        let exchanged = exchange::answer(negotiated.method, &handshake, message, &self.key)?;
        self.send(&exchanged.reply)?;
        self.send(&Message::new(NEWKEYS))?;
        let session = *self.session.get_or_insert(exchanged.hash);
        let algorithm = negotiated.to_client;
        let (key, iv) = exchanged.keys(&session, (b'D', b'B'), algorithm.key_length())?;
        self.sealing.change(algorithm, &key, &iv, self.strict)?;
        self.exchanged = Some((exchanged, negotiated));
        Ok(())
    }

    fn change_opening(&mut self) -> Result<(), Error> {
        let (Some((exchanged, negotiated)), Some(session)) = (self.exchanged.take(), self.session) else {
            return Err(Error::Unexpected(NEWKEYS));
        };
        let algorithm = negotiated.from_client;
        let (key, iv) = exchanged.keys(&session, (b'C', b'A'), algorithm.key_length())?;
        self.opening.change(algorithm, &key, &iv, self.strict)
    }
}

#[cfg(test)]
mod tests {
    use ml_kem::{
        MlKem768,
        kem::{Decapsulate, Kem, KeyExport},
    };
    use proptest::prelude::*;
    use ring::{
        agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
        digest::{SHA256, digest},
        rand::SystemRandom,
        signature,
    };

    use super::*;
    use crate::{cipher::Algorithm, fields::Fields};

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
            Sealing::clear().seal(&payload, &mut transport.incoming).unwrap();
            prop_assert!(matches!(transport.next(), Err(Error::Unexpected(_))));
        }
    }

    /// A client, which supports one algorithm of each kind.
    struct Client {
        method: &'static str,
        algorithm: Algorithm,
        strict: bool,
        sealing: Sealing,
        opening: Opening,
        session: Option<Hash>,
    }

    impl Client {
        fn new(method: &'static str, algorithm: Algorithm, strict: bool) -> Self {
            let (sealing, opening) = (Sealing::clear(), Opening::clear());
            Self { method, algorithm, strict, sealing, opening, session: None }
        }

        fn send(&mut self, message: &Message, to: &mut Transport) {
            self.sealing.seal(message.as_bytes(), &mut to.incoming).unwrap();
        }

        fn receive(&mut self, from: &mut Transport) -> Option<Bytes> {
            self.opening.open(&mut from.outgoing).unwrap()
        }

        fn offer(&self) -> Message {
            let strict = if self.strict { ",kex-strict-c-v00@openssh.com" } else { "" };
            let (methods, cipher) = (format!("{}{strict}", self.method), self.algorithm.name());
            let lists = [methods.as_str(), "ssh-ed25519", cipher, cipher, "", "", "none", "none", "", ""];
            let start = Message::new(KEXINIT).raw(&[0; 16]);
            let message = lists.iter().fold(start, |message, list| message.bytes(list.as_bytes()));
            message.boolean(false).u32(0)
        }

        /// Exchanges keys with `server`.
        fn exchange_keys(&mut self, server: &mut Transport) -> Result<(), Error> {
            let offer = self.offer();
            self.send(&offer, server);
            server.next()?;
            let their_offer = self.receive(server).ok_or(Error::Malformed)?;
            assert_eq!(their_offer.first(), Some(&KEXINIT));
            let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
            let point = secret.compute_public_key().unwrap();
            let (decapsulation, encapsulation) = MlKem768::generate_keypair();
            let is_hybrid = self.method.starts_with("mlkem");
            let ours = if is_hybrid { encapsulation.to_bytes().to_vec() } else { vec![] }.into_iter();
            let ours: Vec<u8> = ours.chain(point.as_ref().iter().copied()).collect();
            self.send(&Message::new(INIT).bytes(&ours), server);
            assert!(server.next()?.is_none());
            let mut reply = Fields::new(self.receive(server).unwrap());
            reply.byte()?;
            let (blob, theirs, signature) = (reply.bytes()?, reply.bytes()?, reply.bytes()?);
            let (ciphertext, their_point) = theirs.split_at(theirs.len() - 32);
            let peer = UnparsedPublicKey::new(&X25519, their_point);
            let shared = agree_ephemeral(secret, &peer, <[u8]>::to_vec).unwrap();
            let shared = if is_hybrid {
                let key = decapsulation.decapsulate_slice(ciphertext).unwrap();
                let both = [key.as_slice(), &shared].concat();
                Message::fields().bytes(digest(&SHA256, &both).as_ref())
            } else {
                Message::fields().mpint(&shared)
            };
            let hashed = [
                b"SSH-2.0-client",
                VERSION.as_bytes(),
                offer.as_bytes(),
                &their_offer,
                &blob,
                &ours,
                &theirs,
            ]
            .iter()
            .fold(Message::fields(), |fields, field| fields.bytes(field))
            .raw(shared.as_bytes());
            let hash: Hash = digest(&SHA256, hashed.as_bytes()).as_ref().try_into().unwrap();
            let key = blob.get(blob.len() - 32..).unwrap();
            let signature = signature.get(signature.len() - 64..).unwrap();
            signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(&hash, signature).unwrap();
            assert_eq!(self.receive(server).unwrap(), [NEWKEYS].as_slice());
            self.send(&Message::new(NEWKEYS), server);
            assert!(server.next()?.is_none());
            let session = *self.session.get_or_insert(hash);
            let derive = |letter: u8| {
                let first = digest(&SHA256, &[shared.as_bytes(), &hash, &[letter], &session].concat());
                let more = digest(&SHA256, &[shared.as_bytes(), &hash, first.as_ref()].concat());
                [first.as_ref(), more.as_ref()].concat()
            };
            let length = self.algorithm.key_length();
            self.sealing.change(self.algorithm, &derive(b'C')[..length], &derive(b'A'), self.strict)?;
            self.opening.change(self.algorithm, &derive(b'D')[..length], &derive(b'B'), self.strict)
        }
    }

    fn greeted() -> Transport {
        let mut server = transport();
        let greeting = server.outgoing.split_to(VERSION.len() + 2);
        assert_eq!(greeting, format!("{VERSION}\r\n"));
        server.incoming.extend_from_slice(b"SSH-2.0-client\r\n");
        server
    }

    #[test]
    fn clients_of_all_kinds_can_exchange_keys_at_the_start_and_again() {
        for method in ["mlkem768x25519-sha256", "curve25519-sha256"] {
            for (algorithm, strict) in Algorithm::ALL.into_iter().zip([true, false]) {
                let mut server = greeted();
                let mut client = Client::new(method, algorithm, strict);
                for round in 0..3_u8 {
                    client.exchange_keys(&mut server).unwrap();
                    assert!(!server.is_exchanging());
                    client.send(&Message::new(100 + round).bytes(b"data"), &mut server);
                    assert_eq!(server.next().unwrap().unwrap().first(), Some(&(100 + round)));
                    server.send(&Message::new(200 + round)).unwrap();
                    assert_eq!(client.receive(&mut server).unwrap(), [200 + round].as_slice());
                    client.send(&Message::new(IGNORE).bytes(b"ignored"), &mut server);
                    assert!(server.next().unwrap().is_none());
                }
                // During an exchange, other messages are refused.
                client.send(&client.offer(), &mut server);
                client.send(&Message::new(94), &mut server);
                assert!(matches!(server.next(), Err(Error::Unexpected(94))));
            }
        }
    }

    #[test]
    fn a_strict_client_may_send_nothing_else_before_the_first_keys() {
        for (strict, before) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut server = greeted();
            let mut client = Client::new("curve25519-sha256", Algorithm::ChaCha20Poly1305, strict);
            let (ignored, offer) = (Message::new(IGNORE).bytes(b""), client.offer());
            let messages = if before { [&ignored, &offer] } else { [&offer, &ignored] };
            messages.into_iter().for_each(|message| client.send(message, &mut server));
            assert_eq!(server.next().is_err(), strict);
        }
    }

    #[test]
    fn invalid_halves_of_an_exchange_are_rejected() {
        for method in ["mlkem768x25519-sha256", "curve25519-sha256"] {
            for length in [0, 31, 32, 33, 1184, 1215, 1216, 1217] {
                let mut server = greeted();
                let mut client = Client::new(method, Algorithm::Aes256Gcm, true);
                client.send(&client.offer(), &mut server);
                client.send(&Message::new(INIT).bytes(&vec![0xff; length]), &mut server);
                let valid = method.starts_with("curve") && length == 32;
                assert_eq!(server.next().is_ok(), valid, "{method} {length}");
            }
        }
    }

    #[test]
    fn only_ssh_version_2_is_accepted() {
        for line in ["SSH-1.99-x\r\n", "GET / HTTP/1.1\r\n", "\n", &"x".repeat(256)] {
            let mut transport = transport();
            transport.incoming.extend_from_slice(line.as_bytes());
            assert!(matches!(transport.next(), Err(Error::Version)), "{line}");
        }
    }
}
