//! Certificates of the user's certificate authorities.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of certificates.
const MAX_CERTIFICATES: usize = 64;

/// Maximum length of all certificates, in bytes. The largest have some 3000.
const MAX_LEN: usize = 256 << 10;

/// Length of the lines of base64, in bytes (RFC 7468).
const LINE: usize = 64;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Beginning of each key in PEM, whatever its kind.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// Beginning of a certificate in base64: an ASN.1 sequence of at least 256 bytes.
const SEQUENCE: &str = "MI";

/// Certificates for a guest's system store, each a PEM text with comments left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schemars(with = "Vec<String>")]
pub struct Certificates(Vec<String>);

/// Error for a text that does not have certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificates {
    /// It has none.
    #[error("it has no line {BEGIN:?}")]
    Missing,
    /// A certificate is not valid.
    #[error("certificate {0} in it is damaged")]
    Damaged(usize),
    /// It has a private key.
    #[error("it has a private key, which a VM must not have")]
    PrivateKey,
    /// There are too many.
    #[error("at most {MAX_CERTIFICATES} certificates, {} KiB in all, fit into a VM", MAX_LEN >> 10)]
    TooMany,
}

impl Certificates {
    /// Maximum length of a file, in bytes.
    pub const MAX_FILE: usize = MAX_LEN;

    /// Returns the certificates in the text of a PEM file.
    ///
    /// # Errors
    /// Returns an error if it has none, one is damaged, or it has a private key.
    pub fn parse(text: &str) -> Result<Self, InvalidCertificates> {
        if text.contains(PRIVATE_KEY) {
            return Err(InvalidCertificates::PrivateKey);
        }
        let mut parts = text.split(BEGIN);
        parts.next();
        let mut all = Vec::new();
        for (number, part) in (1..).zip(parts) {
            let (body, _) = part.split_once(END).ok_or(InvalidCertificates::Damaged(number))?;
            let body: String = body.split_ascii_whitespace().collect();
            let data = body.trim_end_matches('=');
            let is_base64 = data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
            let padding = body.len() - data.len();
            if !is_base64 || padding > 2 || !body.len().is_multiple_of(4) || !body.starts_with(SEQUENCE) {
                return Err(InvalidCertificates::Damaged(number));
            }
            let lines = body.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect::<Vec<_>>();
            all.push(format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")));
        }
        if all.is_empty() {
            return Err(InvalidCertificates::Missing);
        }
        Self::default().with(Self(all))
    }

    /// Returns these certificates and others, without duplicates.
    ///
    /// # Errors
    /// Returns an error if there are too many.
    pub fn with(mut self, others: Self) -> Result<Self, InvalidCertificates> {
        for certificate in others.0 {
            if !self.0.contains(&certificate) {
                self.0.push(certificate);
            }
        }
        if self.0.len() > MAX_CERTIFICATES || self.0.iter().map(String::len).sum::<usize>() > MAX_LEN {
            return Err(InvalidCertificates::TooMany);
        }
        Ok(self)
    }

    /// Returns the certificates, each a PEM text.
    pub fn as_pem(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Certificates {
    type Error = InvalidCertificates;

    fn try_from(all: Vec<String>) -> Result<Self, Self::Error> {
        all.iter().try_fold(Self::default(), |these, text| these.with(Self::parse(text)?))
    }
}

impl From<Certificates> for Vec<String> {
    fn from(certificates: Certificates) -> Self {
        certificates.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn certificates_are_found_among_comments_in_lines_of_one_length() {
        let long = format!("MII{}==", "A".repeat(127));
        let text = format!("# Example CA\r\n{}junk\n{}", pem(&long).replace('\n', "\r\n"), pem("MIIBAA=="));
        let parsed = Certificates::parse(&text).unwrap();
        let lines = format!("MII{}\n{}\nAA==", "A".repeat(61), "A".repeat(64));
        assert_eq!(parsed.as_pem(), [pem(&lines), pem("MIIBAA==")]);
        assert_eq!(parsed.clone().with(parsed.clone()).unwrap(), parsed);
        let json = serde_json::to_string(&parsed).unwrap();
        assert_eq!(serde_json::from_str::<Certificates>(&json).unwrap(), parsed);
        assert_eq!(serde_json::from_str::<Certificates>("[]").unwrap(), Certificates::default());
    }

    #[test]
    fn what_has_no_certificates_is_rejected() {
        use InvalidCertificates as Invalid;
        for (text, error) in [
            (String::new(), Invalid::Missing),
            ("\u{0}binary".to_owned(), Invalid::Missing),
            (format!("{}{BEGIN}\nMIIA", pem("MIIA")), Invalid::Damaged(2)),
            (pem("MIIA*"), Invalid::Damaged(1)),
            (pem("MIIAA"), Invalid::Damaged(1)),
            (pem("MA=="), Invalid::Damaged(1)),
            (pem(""), Invalid::Damaged(1)),
            (format!("{}-----BEGIN RSA PRIVATE KEY-----\n", pem("MIIA")), Invalid::PrivateKey),
            (pem(&format!("MII{}", "A".repeat(MAX_LEN + 1))), Invalid::TooMany),
        ] {
            assert_eq!(Certificates::parse(&text), Err(error), "{text:.100}");
        }
        let many: String = (10..75).map(|number| pem(&format!("MI{number}"))).collect();
        assert_eq!(Certificates::parse(&many), Err(Invalid::TooMany));
    }
}
