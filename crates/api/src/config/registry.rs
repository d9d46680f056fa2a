//! `[[registry]]`: registries with mirrors, plain HTTP or their own certificates.

use std::path::PathBuf;

use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::lists::{check_keys, text};
use crate::Reference;

/// Connection settings of one registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistryHost {
    /// Host, as in a [`Reference`], with its port if it has one.
    pub host: String,
    /// Mirrors to try before it, in this order; `http://` before a mirror selects plain HTTP.
    pub mirrors: Vec<String>,
    /// Whether it uses plain HTTP, where anyone on the way can read and change the data.
    pub plain_http: bool,
    /// A file of certificates (PEM) that are trusted in addition to the system's.
    pub ca: Option<PathBuf>,
}

impl RegistryHost {
    pub(super) fn read(table: &DeTable<'_>) -> Result<Self, String> {
        check_keys(table, &["host", "mirrors", "plain_http", "ca"])?;
        let host = text(table, "host")?.ok_or("host is missing: the name of a registry")?;
        if !is_host(&host) {
            return Err(format!("host {host:?} is not a registry: write it as \"HOST\" or \"HOST:PORT\""));
        }
        let mirrors = match table.get("mirrors").map(|value| value.get_ref()) {
            None => Vec::new(),
            Some(DeValue::Array(mirrors)) => {
                mirrors.iter().map(|mirror| read_mirror(mirror.get_ref())).collect::<Result<_, _>>()?
            }
            Some(_) => return Err("mirrors must be a list of registries".to_owned()),
        };
        let plain_http = match table.get("plain_http").map(|value| value.get_ref()) {
            None => false,
            Some(DeValue::Boolean(plain)) => *plain,
            Some(_) => return Err("plain_http must be true or false".to_owned()),
        };
        let ca = text(table, "ca")?.map(PathBuf::from);
        if let Some(path) = ca.as_ref().filter(|path| !path.is_absolute()) {
            return Err(format!("ca {:?} must be an absolute path", path.display()));
        }
        Ok(Self { host, mirrors, plain_http, ca })
    }
}

fn read_mirror(value: &DeValue<'_>) -> Result<String, String> {
    let mirror = value.as_str().ok_or("a mirror must be a quoted string")?;
    let host = mirror.strip_prefix("http://").or_else(|| mirror.strip_prefix("https://")).unwrap_or(mirror);
    if is_host(host) {
        Ok(mirror.to_owned())
    } else {
        Err(format!("mirror {mirror:?} is not a registry: write it as \"HOST:PORT\" or \"http://HOST:PORT\""))
    }
}

/// Returns whether a reference can name `text` as its registry.
fn is_host(text: &str) -> bool {
    format!("{text}/x").parse::<Reference>().is_ok_and(|reference| reference.registry() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lists::entries;

    fn read(text: &str) -> Result<Vec<RegistryHost>, String> {
        let table = DeTable::parse(text).unwrap();
        entries("registry", table.get_ref().get("registry").unwrap().get_ref(), RegistryHost::read)
    }

    #[test]
    fn registry_entries_are_parsed() {
        let text = "[[registry]]\nhost = 'docker.io'\nmirrors = ['http://mirror:5000', 'b.example']\n\
            [[registry]]\nhost = '10.0.0.1:5000'\nplain_http = true\nca = '/etc/ca.pem'\n";
        let [hub, own] = &read(text).unwrap()[..] else { panic!() };
        assert_eq!(hub.mirrors, ["http://mirror:5000", "b.example"]);
        assert_eq!((own.plain_http, own.ca.as_deref()), (true, Some("/etc/ca.pem".as_ref())));
    }

    #[test]
    fn invalid_entries_are_rejected_with_their_number() {
        for (entry, why) in [
            ("mirrors = []", "host is missing"),
            ("host = 'alpine'", "is not a registry"),
            ("host = 'https://a.io'", "is not a registry"),
            ("host = 'a.io/x'", "is not a registry"),
            ("host = 'a.io'\nmirrors = 'b.io'", "must be a list"),
            ("host = 'a.io'\nmirrors = ['b.io/x']", "mirror \"b.io/x\" is not a registry"),
            ("host = 'a.io'\nplain_http = 1", "must be true or false"),
            ("host = 'a.io'\nca = 'ca.pem'", "must be an absolute path"),
            ("host = 'a.io'\nmirorrs = []", "did you mean mirrors?"),
        ] {
            let error = read(&format!("[[registry]]\n{entry}\n")).unwrap_err();
            assert!(error.starts_with("entry 1: ") && error.contains(why), "{entry}: {error}");
        }
    }
}
