//! The key exchange: curve25519-sha256 (RFC 8731), signed by an Ed25519 key (RFC 8709).

use bytes::Bytes;
use ring::{
    aead::NONCE_LEN,
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};

use super::{Fields, HostKey, Malformed, Message, cipher, error::WireError, key};

pub(super) const KEXINIT: u8 = 20;
pub(super) const NEWKEYS: u8 = 21;
pub(super) const ECDH_INIT: u8 = 30;
const ECDH_REPLY: u8 = 31;

const COOKIE_SIZE: usize = 16;
const KEX_ALGORITHMS: [&str; 2] = ["curve25519-sha256", "curve25519-sha256@libssh.org"];
const NO_COMPRESSION: &str = "none";

/// A SHA-256 hash.
pub(super) type Hash = [u8; 32];

/// Returns this side's offer: one algorithm of each kind.
pub(super) fn offer() -> Result<Message, WireError> {
    let mut cookie = [0; COOKIE_SIZE];
    SystemRandom::new().fill(&mut cookie).map_err(|_| WireError::Crypto)?;
    let lists = [
        KEX_ALGORITHMS.join(","),
        key::ALGORITHM.to_owned(),
        cipher::ALGORITHM.to_owned(),
        cipher::ALGORITHM.to_owned(),
        // Unused: the cipher authenticates packets itself.
        "hmac-sha2-256".to_owned(),
        "hmac-sha2-256".to_owned(),
        NO_COMPRESSION.to_owned(),
        NO_COMPRESSION.to_owned(),
        String::new(),
        String::new(),
    ];
    let message =
        lists.iter().fold(Message::new(KEXINIT).raw(&cookie), |message, list| message.bytes(list.as_bytes()));
    Ok(message.boolean(false).u32(0))
}

/// Returns whether the client's next packet is a wrong guess; fails if the two sides share no algorithm.
pub(super) fn negotiate(theirs: Bytes) -> Result<bool, WireError> {
    let mut fields = Fields::new(theirs);
    fields.byte()?;
    fields.take(COOKIE_SIZE)?;
    let lists = (0..10).map(|_| fields.text()).collect::<Result<Vec<_>, Malformed>>()?;
    let follows = fields.boolean()?;
    let names = |index: usize| lists.get(index).map(String::as_str).unwrap_or_default().split(',');
    for (index, kind, ours) in [
        (0, "key exchange", KEX_ALGORITHMS.as_slice()),
        (1, "host key", &[key::ALGORITHM]),
        (2, "cipher", &[cipher::ALGORITHM]),
        (3, "cipher", &[cipher::ALGORITHM]),
        (6, "compression", &[NO_COMPRESSION]),
        (7, "compression", &[NO_COMPRESSION]),
    ] {
        if !names(index).any(|name| ours.contains(&name)) {
            return Err(WireError::NoCommonAlgorithm { kind, ours: ours.join(",") });
        }
    }
    let guessed = |index: usize, ours: &[&str]| names(index).next().is_some_and(|name| ours.contains(&name));
    Ok(follows && !(guessed(0, &KEX_ALGORITHMS) && guessed(1, &[key::ALGORITHM])))
}

/// The versions and offers that both sides have sent.
#[derive(Debug)]
pub(super) struct Handshake<'a> {
    pub(super) client_version: &'a [u8],
    pub(super) server_version: &'a [u8],
    pub(super) client_offer: &'a [u8],
    pub(super) server_offer: &'a [u8],
}

/// Result of an exchange.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) reply: Message,
    pub(super) hash: Hash,
    shared: Vec<u8>,
}

/// Answers the client's half of the exchange.
pub(super) fn answer(
    handshake: &Handshake<'_>,
    client: Bytes,
    key: &HostKey,
) -> Result<Exchanged, WireError> {
    let mut fields = Fields::new(client);
    fields.byte()?;
    let theirs = fields.bytes()?;
    let crypto = |_| WireError::Crypto;
    let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(crypto)?;
    let ours = secret.compute_public_key().map_err(crypto)?;
    let point = UnparsedPublicKey::new(&X25519, &theirs);
    let shared = agree_ephemeral(secret, &point, |shared| Message::fields().mpint(shared)).map_err(crypto)?;
    let blob = key.blob();
    let hashed = [
        handshake.client_version,
        handshake.server_version,
        handshake.client_offer,
        handshake.server_offer,
        &blob,
    ]
    .iter()
    .fold(Message::fields(), |fields, field| fields.bytes(field))
    .bytes(&theirs)
    .bytes(ours.as_ref())
    .raw(shared.as_bytes());
    let hash = sha256(hashed.as_bytes())?;
    let reply = Message::new(ECDH_REPLY).bytes(&blob).bytes(ours.as_ref()).bytes(&key.sign(&hash));
    Ok(Exchanged { reply, hash, shared: shared.as_bytes().to_vec() })
}

impl Exchanged {
    /// Returns the ciphers from and to the client (RFC 4253, 7.2).
    pub(super) fn ciphers(&self, session: &Hash) -> Result<[cipher::Cipher; 2], WireError> {
        let derive = |letter: u8| {
            let hashed = [self.shared.as_slice(), &self.hash, &[letter], session].concat();
            sha256(&hashed)
        };
        let nonce = |hash: Hash| hash.first_chunk::<NONCE_LEN>().copied().ok_or(WireError::Crypto);
        Ok([
            cipher::Cipher::new(&derive(b'C')?, nonce(derive(b'A')?)?)?,
            cipher::Cipher::new(&derive(b'D')?, nonce(derive(b'B')?)?)?,
        ])
    }
}

fn sha256(bytes: &[u8]) -> Result<Hash, WireError> {
    digest(&SHA256, bytes).as_ref().try_into().map_err(|_| WireError::Crypto)
}
