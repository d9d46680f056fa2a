//! How registries are reached: what the user configures, and what follows from a host's name.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_api::Credentials;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use crate::codec::{ReadError, read_limited};
use crate::error::{RegistryError, sanitised};

/// Most redirects followed for one request.
const MOST_REDIRECTS: usize = 5;

/// Longest file with CAs, in bytes; all of a system's together have 250 kB.
const LONGEST_CA: u64 = 4 << 20;

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryHost {
    /// Its name in references, with its port where it has one.
    pub host: String,
    /// Registries that are asked first, in this order: `HOST[:PORT]`, with `http://` before it where that is meant.
    pub mirrors: Vec<String>,
    /// Whether it speaks http only.
    pub plain_http: bool,
    /// A file with certificates (PEM) of CAs that are trusted besides the system's.
    pub ca: Option<PathBuf>,
}

/// How all registries are reached. A proxy comes from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Those that are not reached the ordinary way.
    pub hosts: Vec<RegistryHost>,
    /// The user's.
    pub credentials: Vec<Credentials>,
    /// How long things may take.
    pub timing: Timing,
}

/// How long a registry may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until an answer begins, or goes on.
    pub idle: Duration,
    /// Between the first try and the second; doubled for each further one.
    pub back_off: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            back_off: Duration::from_millis(500),
        }
    }
}

/// A registry, or a mirror of one, as it is to be reached.
pub(crate) struct Route<'a> {
    /// Its name, for people and for looking up credentials.
    pub(super) name: &'a str,
    scheme: Scheme,
    ca: Option<&'a Path>,
    timing: Timing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// A registry on this host, which often has no certificate.
    Either,
}

impl Registries {
    /// The mirrors of `registry`.
    pub(super) fn mirrors<'a>(&'a self, registry: &str) -> Vec<Route<'a>> {
        let mirrors = self.host(registry).map(|host| host.mirrors.as_slice()).unwrap_or_default();
        mirrors.iter().map(|mirror| self.route(mirror)).collect()
    }

    /// The way to a registry, or to a mirror as it is written in [`RegistryHost::mirrors`].
    pub(crate) fn route<'a>(&'a self, place: &'a str) -> Route<'a> {
        let place = place.trim_end_matches('/');
        let (scheme, name) = match (place.strip_prefix("http://"), place.strip_prefix("https://")) {
            (Some(name), _) => (Some(Scheme::Http), name),
            (None, Some(name)) => (Some(Scheme::Https), name),
            (None, None) => (None, place),
        };
        let host = self.host(name);
        let ca = host.and_then(|host| host.ca.as_deref());
        let scheme = scheme.unwrap_or(match host {
            Some(host) if host.plain_http => Scheme::Http,
            _ if ca.is_none() && is_loopback(name) => Scheme::Either,
            _ => Scheme::Https,
        });
        Route { name, scheme, ca, timing: self.timing }
    }

    fn host(&self, name: &str) -> Option<&RegistryHost> {
        self.hosts.iter().find(|host| host.host == name)
    }
}

impl Route<'_> {
    /// Whether it may be spoken to by http.
    pub(crate) fn speaks_http(&self) -> bool {
        self.scheme != Scheme::Https
    }

    /// The URL of its root; a registry on this host is asked which it speaks.
    pub(super) async fn base(&self, client: &Client) -> Result<Url, RegistryError> {
        let authority = if self.name == "docker.io" { "registry-1.docker.io" } else { self.name };
        let url = |scheme: &str| {
            let problem = || "its name is no host's".to_owned();
            Url::parse(&format!("{scheme}://{authority}/v2/"))
                .ok()
                .filter(|url| url.path() == "/v2/" && url.username().is_empty())
                .ok_or_else(|| RegistryError::Answer { host: self.name.to_owned(), problem: problem() })
        };
        match self.scheme {
            Scheme::Http => url("http"),
            Scheme::Https => url("https"),
            Scheme::Either => {
                // Nothing secret goes with this request. A server that expects TLS answers 400, or no HTTP at all.
                let answer = client.get(url("http")?).timeout(self.timing.idle).send().await;
                let plain = match answer {
                    Ok(answer) => answer.status() != reqwest::StatusCode::BAD_REQUEST,
                    Err(error) => error.is_connect() || error.is_timeout(),
                };
                url(if plain { "http" } else { "https" })
            }
        }
    }

    /// A client that follows redirects, but never from https to http.
    pub(crate) fn client(&self) -> Result<Client, RegistryError> {
        self.client_with(|| {
            Policy::custom(|attempt| {
                let secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                if attempt.previous().len() > MOST_REDIRECTS {
                    attempt.error("too many redirects")
                } else if secure && attempt.url().scheme() != "https" {
                    attempt.error("a redirect from https to http")
                } else {
                    attempt.follow()
                }
            })
        })
    }

    /// A client for requests with a secret in their body, which a redirect could carry elsewhere.
    pub(super) fn direct_client(&self) -> Result<Client, RegistryError> {
        self.client_with(Policy::none)
    }

    fn client_with(&self, redirects: impl Fn() -> Policy) -> Result<Client, RegistryError> {
        // Another part of the program may have chosen one already; then that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra = self.ca.map(|path| self.certificates(path)).transpose()?.unwrap_or_default();
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.timing.connect)
                .redirect(redirects());
            // As everywhere: a proxy's loopback is another one.
            if is_loopback(self.name) { builder.no_proxy() } else { builder }
        };
        // It can't be built on a host without any CA, where plain http works all the same.
        let client =
            builder().tls_certs_merge(extra).build().or_else(|_| builder().tls_certs_only([]).build());
        client.map_err(|error| RegistryError::of_request(self.name, self.timing.idle, &error))
    }

    fn certificates(&self, path: &Path) -> Result<Vec<Certificate>, RegistryError> {
        let refuse = |reason: String| {
            let (host, path) = (self.name.to_owned(), path.to_owned());
            RegistryError::Ca { host, path, reason: sanitised(&reason) }
        };
        let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
        let pem = read_limited(file, LONGEST_CA).map_err(|error| match error {
            ReadError::TooLarge => refuse("it is too large".to_owned()),
            ReadError::Io(error) => refuse(error.to_string()),
        })?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(refuse("there are no certificates (PEM) in it".to_owned())),
        }
    }
}

/// Whether a host, with or without its port, is this one.
pub(super) fn is_loopback(authority: &str) -> bool {
    let url = Url::parse(&format!("http://{authority}/")).ok();
    url.as_ref().and_then(Url::host_str).is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.map_or(host == "localhost", |address| address.is_loopback())
    })
}
