//! The key exchange, signed by an Ed25519 key (RFC 8709): X25519 (RFC 8731), alone or with ML-KEM-768
//! (draft-ietf-sshm-mlkem-hybrid-kex), which OpenSSH 10.1 asks for.

use bytes::Bytes;
use ml_kem::{
    EncapsulationKey768,
    kem::{Encapsulate, TryKeyInit},
};
use ring::{
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};

use crate::{
    cipher::Algorithm,
    error::Error,
    fields::{Fields, Malformed, Message},
    host_key::{self, HostKey},
};

pub(crate) const KEXINIT: u8 = 20;
pub(crate) const NEWKEYS: u8 = 21;
/// The client's half of an exchange, and the server's.
pub(crate) const INIT: u8 = 30;
pub(crate) const REPLY: u8 = 31;

const COOKIE_SIZE: usize = 16;
const NO_COMPRESSION: &str = "none";

/// Names in the list of key exchanges by which both sides agree to count packets anew after the first exchange and
/// to allow no other messages before (OpenSSH's `PROTOCOL`, 1.10).
const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";

/// Size of a client's ML-KEM-768 key, in bytes.
const ML_KEM_KEY_SIZE: usize = 1184;

/// A SHA-256 hash.
pub(crate) type Hash = [u8; 32];

/// A method of key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    MlKem768X25519,
    X25519,
}

/// The methods by name.
const METHODS: [(&str, Method); 3] = [
    ("mlkem768x25519-sha256", Method::MlKem768X25519),
    ("curve25519-sha256", Method::X25519),
    ("curve25519-sha256@libssh.org", Method::X25519),
];

/// The algorithms that both sides support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) method: Method,
    pub(crate) from_client: Algorithm,
    pub(crate) to_client: Algorithm,
    /// Whether the client's next packet is a wrong guess.
    pub(crate) skip: bool,
    /// Whether the client supports strict key exchange.
    pub(crate) strict: bool,
}

/// Returns the server's offer.
pub(crate) fn offer() -> Result<Message, Error> {
    let mut cookie = [0; COOKIE_SIZE];
    SystemRandom::new().fill(&mut cookie).map_err(|_| Error::Crypto)?;
    let ciphers = cipher_names().join(",");
    let methods: Vec<_> = METHODS.iter().map(|(name, _)| *name).chain([STRICT_SERVER]).collect();
    let lists = [
        methods.join(","),
        host_key::ALGORITHM.to_owned(),
        ciphers.clone(),
        ciphers,
        // Unused: the ciphers authenticate packets themselves.
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

fn cipher_names() -> [&'static str; Algorithm::ALL.len()] {
    Algorithm::ALL.map(Algorithm::name)
}

/// Chooses the client's first algorithm of each kind that the server supports.
pub(crate) fn negotiate(theirs: Bytes) -> Result<Negotiated, Error> {
    let mut fields = Fields::new(theirs);
    fields.byte()?;
    fields.take(COOKIE_SIZE)?;
    let lists = (0..10).map(|_| fields.text()).collect::<Result<Vec<_>, Malformed>>()?;
    let follows = fields.boolean()?;
    let names = |index: usize| lists.get(index).map(String::as_str).unwrap_or_default().split(',');
    let choose = |index: usize, kind: &'static str, ours: &[&'static str]| {
        let position = names(index).find_map(|name| ours.iter().position(|our_name| *our_name == name));
        position.ok_or_else(|| Error::NoCommonAlgorithm { kind, ours: ours.join(",") })
    };
    let method_names = METHODS.map(|(name, _)| name);
    let method = choose(0, "key exchange", &method_names)?;
    choose(1, "host key", &[host_key::ALGORITHM])?;
    let from_client = choose(2, "cipher", &cipher_names())?;
    let to_client = choose(3, "cipher", &cipher_names())?;
    choose(6, "compression", &[NO_COMPRESSION])?;
    choose(7, "compression", &[NO_COMPRESSION])?;
    // A guess is right if both sides prefer the same algorithms (RFC 4253, 7).
    let is_first = |index: usize, ours: &str| names(index).next() == Some(ours);
    let guess_is_right =
        method_names.first().is_some_and(|ours| is_first(0, ours)) && is_first(1, host_key::ALGORITHM);
    let cipher = |position: usize| Algorithm::ALL.get(position).copied().ok_or(Error::Crypto);
    Ok(Negotiated {
        method: METHODS.get(method).ok_or(Error::Crypto)?.1,
        from_client: cipher(from_client)?,
        to_client: cipher(to_client)?,
        skip: follows && !guess_is_right,
        strict: names(0).any(|name| name == STRICT_CLIENT),
    })
}

/// The versions and offers that both sides have sent.
#[derive(Debug)]
pub(crate) struct Handshake<'a> {
    pub(crate) client_version: &'a [u8],
    pub(crate) server_version: &'a [u8],
    pub(crate) client_offer: &'a [u8],
    pub(crate) server_offer: &'a [u8],
}

/// Result of an exchange.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub(crate) reply: Message,
    pub(crate) hash: Hash,
    /// The shared secret as a field of the hash.
    shared: Message,
}

/// Answers the client's half of the exchange.
pub(crate) fn answer(
    method: Method,
    handshake: &Handshake<'_>,
    client: Bytes,
    key: &HostKey,
) -> Result<Exchanged, Error> {
    let mut fields = Fields::new(client);
    fields.byte()?;
    let theirs = fields.bytes()?;
    let (ours, shared) = match method {
        Method::X25519 => {
            let (point, secret) = x25519(&theirs)?;
            (point, Message::fields().mpint(&secret))
        }
        Method::MlKem768X25519 => {
            let (key, point) = theirs.split_at_checked(ML_KEM_KEY_SIZE).ok_or(Error::Malformed)?;
            let key = EncapsulationKey768::new_from_slice(key).map_err(|_| Error::Crypto)?;
            let (ciphertext, key_secret) = key.encapsulate();
            let (point, point_secret) = x25519(point)?;
            let secret = sha256(&[key_secret.as_slice(), &point_secret].concat())?;
            ([ciphertext.as_slice(), &point].concat(), Message::fields().bytes(&secret))
        }
    };
    let blob = key.blob();
    let hashed = [
        handshake.client_version,
        handshake.server_version,
        handshake.client_offer,
        handshake.server_offer,
        &blob,
        &theirs,
        &ours,
    ]
    .iter()
    .fold(Message::fields(), |fields, field| fields.bytes(field))
    .raw(shared.as_bytes());
    let hash = sha256(hashed.as_bytes())?;
    let reply = Message::new(REPLY).bytes(&blob).bytes(&ours).bytes(&key.sign(&hash));
    Ok(Exchanged { reply, hash, shared })
}

/// Returns the server's point, and the secret that it shares with the owner of the point `theirs`.
fn x25519(theirs: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let crypto = |_| Error::Crypto;
    let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(crypto)?;
    let ours = secret.compute_public_key().map_err(crypto)?;
    let theirs = UnparsedPublicKey::new(&X25519, theirs);
    let shared = agree_ephemeral(secret, &theirs, <[u8]>::to_vec).map_err(crypto)?;
    Ok((ours.as_ref().to_vec(), shared))
}

impl Exchanged {
    /// Derives the key and the initialisation vector with these letters (RFC 4253, 7.2).
    pub(crate) fn keys(
        &self,
        session: &Hash,
        (key, iv): (u8, u8),
        key_length: usize,
    ) -> Result<(Vec<u8>, Hash), Error> {
        let derive =
            |letter: u8| sha256(&[self.shared.as_bytes(), self.hash.as_slice(), &[letter], session].concat());
        let mut bytes = derive(key)?.to_vec();
        while bytes.len() < key_length {
            bytes.extend(sha256(&[self.shared.as_bytes(), self.hash.as_slice(), &bytes].concat())?);
        }
        bytes.truncate(key_length);
        Ok((bytes, derive(iv)?))
    }
}

fn sha256(bytes: &[u8]) -> Result<Hash, Error> {
    digest(&SHA256, bytes).as_ref().try_into().map_err(|_| Error::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_offer(methods: &str, ciphers: &str, follows: bool) -> Bytes {
        let lists = [methods, "ssh-ed25519", ciphers, ciphers, "", "", "none,zlib", "none", "", ""];
        let start = Message::new(KEXINIT).raw(&[0; COOKIE_SIZE]);
        let message = lists.iter().fold(start, |message, list| message.bytes(list.as_bytes()));
        Bytes::copy_from_slice(message.boolean(follows).u32(0).as_bytes())
    }

    #[test]
    fn the_clients_preference_decides() {
        let both = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com";
        let negotiated = negotiate(client_offer(
            "sntrup761x25519-sha512,curve25519-sha256,mlkem768x25519-sha256",
            both,
            true,
        ))
        .unwrap();
        assert_eq!(
            (negotiated.method, negotiated.from_client),
            (Method::X25519, Algorithm::ChaCha20Poly1305)
        );
        assert!(negotiated.skip && !negotiated.strict);
        let strict = format!("mlkem768x25519-sha256,{STRICT_CLIENT}");
        let negotiated = negotiate(client_offer(&strict, "aes256-gcm@openssh.com", true)).unwrap();
        assert_eq!((negotiated.method, negotiated.to_client), (Method::MlKem768X25519, Algorithm::Aes256Gcm));
        assert!(!negotiated.skip && negotiated.strict);
    }

    #[test]
    fn a_client_without_a_common_algorithm_is_refused_with_the_kind() {
        for (methods, ciphers, kind) in [
            ("diffie-hellman-group14-sha256", "aes256-gcm@openssh.com", "key exchange"),
            ("curve25519-sha256", "aes256-ctr", "cipher"),
        ] {
            let error = negotiate(client_offer(methods, ciphers, false)).unwrap_err().to_string();
            assert!(error.contains(kind), "{error}");
        }
    }
}
