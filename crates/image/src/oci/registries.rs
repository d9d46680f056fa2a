//! How banger connects to registries: the user's configuration, and defaults that follow from a host's name.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_api::Credentials;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use crate::codec::{ReadError, read_limited};
use crate::error::{RegistryError, sanitised};

/// Maximum number of redirects followed for one request.
const MAX_REDIRECTS: usize = 5;

/// Maximum size of a file of CA certificates, in bytes. All of a system's certificates together are 250 kB.
const MAX_CA_FILE: u64 = 4 << 20;

/// The configuration of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryHost {
    /// The registry's name in references, with its port if it has one.
    pub host: String,
    /// Mirrors to try first, in this order: `HOST[:PORT]`, with the prefix `http://` for plain HTTP.
    pub mirrors: Vec<String>,
    /// Whether the registry speaks only HTTP.
    pub plain_http: bool,
    /// A file of CA certificates (PEM) to trust in addition to the system's.
    pub ca: Option<PathBuf>,
}

/// The configuration of all registries. Proxies are read from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Registries with a configuration.
    pub hosts: Vec<RegistryHost>,
    /// The user's credentials.
    pub credentials: Vec<Credentials>,
    /// Timeouts and retry delays.
    pub timing: Timing,
}

/// Timeouts and retry delays for requests to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Timeout for establishing a connection.
    pub connect: Duration,
    /// Timeout for a response to start, or to continue.
    pub idle: Duration,
    /// Delay before the first retry; doubled for each further one.
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

/// How to reach a registry or a mirror.
pub(crate) struct Route<'a> {
    /// Its name, for messages and for finding credentials.
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
    /// Returns the mirrors of `registry`.
    pub(super) fn mirrors<'a>(&'a self, registry: &str) -> Vec<Route<'a>> {
        let mirrors = self.host(registry).map(|host| host.mirrors.as_slice()).unwrap_or_default();
        mirrors.iter().map(|mirror| self.route(mirror)).collect()
    }

    /// Returns the route to a registry, or to a mirror as written in [`RegistryHost::mirrors`].
    pub(crate) fn route<'a>(&'a self, location: &'a str) -> Route<'a> {
        let location = location.trim_end_matches('/');
        let (scheme, name) = match (location.strip_prefix("http://"), location.strip_prefix("https://")) {
            (Some(name), _) => (Some(Scheme::Http), name),
            (None, Some(name)) => (Some(Scheme::Https), name),
            (None, None) => (None, location),
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
    /// Returns whether plain HTTP may be used.
    pub(crate) fn allows_http(&self) -> bool {
        self.scheme != Scheme::Https
    }

    /// Returns the URL of the API's root. A registry on this host is probed for its scheme.
    pub(super) async fn base(&self, client: &Client) -> Result<Url, RegistryError> {
        let authority = if self.name == "docker.io" { "registry-1.docker.io" } else { self.name };
        let url = |scheme: &str| {
            let problem = || "its name is not a host name".to_owned();
            Url::parse(&format!("{scheme}://{authority}/v2/"))
                .ok()
                .filter(|url| url.path() == "/v2/" && url.username().is_empty())
                .ok_or_else(|| RegistryError::InvalidResponse {
                    host: self.name.to_owned(),
                    problem: problem(),
                })
        };
        match self.scheme {
            Scheme::Http => url("http"),
            Scheme::Https => url("https"),
            Scheme::Either => {
                // This request carries no secret. A server that expects TLS answers 400, or with something that is
                // not HTTP.
                let response = client.get(url("http")?).timeout(self.timing.idle).send().await;
                let plain = match response {
                    Ok(response) => response.status() != reqwest::StatusCode::BAD_REQUEST,
                    Err(error) => error.is_connect() || error.is_timeout(),
                };
                url(if plain { "http" } else { "https" })
            }
        }
    }

    /// Returns a client that follows redirects, but never from https to http.
    pub(crate) fn client(&self) -> Result<Client, RegistryError> {
        self.client_with(|| {
            Policy::custom(|attempt| {
                let secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                if attempt.previous().len() > MAX_REDIRECTS {
                    attempt.error("too many redirects")
                } else if secure && attempt.url().scheme() != "https" {
                    attempt.error("a redirect from https to http")
                } else {
                    attempt.follow()
                }
            })
        })
    }

    /// Returns a client for requests with a secret in the body. It follows no redirects, which could leak the secret.
    pub(super) fn no_redirect_client(&self) -> Result<Client, RegistryError> {
        self.client_with(Policy::none)
    }

    fn client_with(&self, redirects: impl Fn() -> Policy) -> Result<Client, RegistryError> {
        // Another part of the program may have installed a provider already, which works as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra = self.ca.map(|path| self.certificates(path)).transpose()?.unwrap_or_default();
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.timing.connect)
                .redirect(redirects());
            // A proxy would connect to its own loopback address, not to this host's.
            if is_loopback(self.name) { builder.no_proxy() } else { builder }
        };
        // On a host without CA certificates the first build fails; plain HTTP still works without any.
        let client =
            builder().tls_certs_merge(extra).build().or_else(|_| builder().tls_certs_only([]).build());
        client.map_err(|error| RegistryError::from_request(self.name, self.timing.idle, &error))
    }

    fn certificates(&self, path: &Path) -> Result<Vec<Certificate>, RegistryError> {
        let refuse = |reason: String| {
            let (host, path) = (self.name.to_owned(), path.to_owned());
            RegistryError::Ca { host, path, reason: sanitised(&reason) }
        };
        let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
        let pem = read_limited(file, MAX_CA_FILE).map_err(|error| match error {
            ReadError::TooLarge => refuse("it is too large".to_owned()),
            ReadError::Io(error) => refuse(error.to_string()),
        })?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            _ => Err(refuse("it contains no PEM certificates".to_owned())),
        }
    }
}

/// Returns whether `authority`, with or without a port, is a loopback host.
pub(super) fn is_loopback(authority: &str) -> bool {
    let url = Url::parse(&format!("http://{authority}/")).ok();
    url.as_ref().and_then(Url::host_str).is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.map_or(host == "localhost", |address| address.is_loopback())
    })
}
