//! Requests to one registry or mirror for one repository (OCI distribution specification, "Pull").

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banger_api::{Credentials, Digest};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::challenge::{self, Challenge};
use super::manifest::LONGEST_DOCUMENT;
use super::registries::{Registries, Route, Timing, is_loopback};
use crate::error::{RegistryError, sanitised};

/// Media types of the supported manifests and indexes.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Maximum size of a token server's response and of an error response, in bytes.
const LONGEST_TOKEN: u64 = 256 << 10;

/// Timeout for reading a whole response other than a blob, however slowly it arrives.
const DOCUMENT_TIME: Duration = Duration::from_secs(120);

/// One repository in one registry or mirror.
pub(super) struct RegistryEndpoint {
    pub(super) name: String,
    base: Url,
    repository: String,
    credentials: Option<Credentials>,
    client: Client,
    /// Client for requests with a secret in their body, which must not be redirected.
    direct: Client,
    /// The `Authorization` header that was accepted last, or that is to be tried next.
    login: Mutex<Option<Arc<HeaderValue>>>,
    /// Set once a request gets no response. banger then does not wait for this mirror again.
    down: AtomicBool,
    timing: Timing,
}

/// A resource to request, as a path below the repository.
#[derive(Debug, Clone, Copy)]
pub(super) enum RegistryPath<'a> {
    Tag(&'a str),
    Manifest(Digest),
    Blob(Digest),
}

impl fmt::Display for RegistryPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "manifests/{tag}"),
            Self::Manifest(digest) => write!(f, "manifests/{digest}"),
            Self::Blob(digest) => write!(f, "blobs/{digest}"),
        }
    }
}

impl RegistryEndpoint {
    pub(super) async fn new(
        route: &Route<'_>,
        repository: &str,
        registries: &Registries,
    ) -> Result<Self, RegistryError> {
        let client = route.client()?;
        let credentials = registries.credentials.iter().find(|shown| shown.registry == route.name);
        // A second client is built only when needed, because each reads all of the system's CA certificates.
        let identity = credentials.is_some_and(|shown| shown.username.is_empty());
        let direct = if identity { route.direct_client()? } else { client.clone() };
        Ok(Self {
            name: route.name.to_owned(),
            base: route.base(&client).await?,
            repository: repository.to_owned(),
            credentials: credentials.cloned(),
            client,
            direct,
            login: Mutex::default(),
            down: AtomicBool::new(false),
            timing: registries.timing,
        })
    }

    /// Returns whether an earlier request got no response.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Returns the digest that a tag points to, if the registry sends it in a header.
    pub(super) async fn digest_of(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let response = self.send(Method::HEAD, RegistryPath::Tag(tag), 0).await?;
        let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.and_then(|digest| digest.parse().ok()))
    }

    /// Fetches a whole manifest, index or configuration.
    pub(super) async fn document(&self, wanted: RegistryPath<'_>) -> Result<Vec<u8>, RegistryError> {
        let response = self.send(Method::GET, wanted, 0).await?;
        self.whole(response, "a manifest or configuration", LONGEST_DOCUMENT).await
    }

    /// Requests a blob from byte `from` on. The response's status says whether the registry honours the range.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response, RegistryError> {
        self.send(Method::GET, RegistryPath::Blob(digest), from).await
    }

    /// Reads the next chunk of a response's body.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, RegistryError> {
        match timeout(self.timing.idle, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Sends a request. Returns responses with status 200, 206 or 416, and an error for any other.
    async fn send(
        &self,
        method: Method,
        wanted: RegistryPath<'_>,
        from: u64,
    ) -> Result<Response, RegistryError> {
        let url = format!("{}{}/{wanted}", self.base, self.repository);
        let request = |login: Option<&HeaderValue>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
            if let RegistryPath::Blob(_) = wanted {
                headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
            }
            headers.extend(login.map(|login| (AUTHORIZATION, login.clone())));
            let request = self.client.request(method.clone(), &url).headers(headers);
            if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
        };
        let login = self.login.lock().await.clone();
        let mut response = self.answer(request(login.as_deref())).await?;
        // Never log in to the target of a redirect.
        let same = |url: &Url| url.origin() == self.base.origin();
        if response.status() == StatusCode::UNAUTHORIZED && same(response.url()) {
            let login = self.log_in(login, response.headers()).await?;
            response = self.answer(request(Some(&login))).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.refusal(response, Some(wanted)).await),
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        match timeout(self.timing.idle, request.send()).await {
            Ok(response) => response.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Returns the header to send after the registry has refused `used`.
    async fn log_in(
        &self,
        used: Option<Arc<HeaderValue>>,
        headers: &HeaderMap,
    ) -> Result<Arc<HeaderValue>, RegistryError> {
        let mut login = self.login.lock().await;
        if let Some(newer) = login.as_ref().filter(|now| !used.is_some_and(|used| Arc::ptr_eq(now, &used))) {
            return Ok(Arc::clone(newer));
        }
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let request = match (challenge::parse(challenges), &self.credentials) {
            (Some(Challenge::Basic), Some(shown)) if !shown.username.is_empty() => {
                self.client.get(self.base.clone()).basic_auth(&shown.username, Some(&shown.secret))
            }
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let token = self.token(&realm, service, scope).await?;
                self.client.get(self.base.clone()).bearer_auth(token)
            }
            _ => return Err(self.not_permitted(String::new())),
        };
        // reqwest formats the header.
        let header = request.build().ok().and_then(|mut request| request.headers_mut().remove(AUTHORIZATION));
        let unusable = || self.unusable("its token contains invalid characters");
        let header = Arc::new(header.ok_or_else(unusable)?);
        *login = Some(Arc::clone(&header));
        Ok(header)
    }

    /// Requests a token from the registry's token server ("Docker Registry v2 authentication").
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, RegistryError> {
        let mut url =
            Url::parse(realm).map_err(|_| self.unusable("the address of its token server is not a URL"))?;
        let private = match url.scheme() {
            "https" => true,
            "http" => self.base.scheme() == "http" || url.host_str().is_some_and(is_loopback),
            _ => false,
        };
        if !private {
            return Err(self.unusable("its token server does not use https"));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let request = match &self.credentials {
            // An empty user name means that the secret is an identity token.
            Some(shown) if shown.username.is_empty() => {
                let mut form = url.clone();
                form.query_pairs_mut()
                    .clear()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", &service.unwrap_or_default())
                    .append_pair("client_id", "banger")
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", &shown.secret);
                let form = form.query().unwrap_or_default().to_owned();
                let kind = ("content-type", "application/x-www-form-urlencoded");
                self.direct.post(url).header(kind.0, kind.1).body(form)
            }
            shown => {
                let pairs = service.iter().map(|service| ("service", service)).chain([("scope", &scope)]);
                url.query_pairs_mut().extend_pairs(pairs);
                let request = self.client.get(url);
                match shown {
                    Some(shown) => request.basic_auth(&shown.username, Some(&shown.secret)),
                    None => request,
                }
            }
        };
        let response = self.answer(request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, None).await);
        }
        let bytes = self.whole(response, "a token", LONGEST_TOKEN).await?;
        let answer: Token =
            serde_json::from_slice(&bytes).map_err(|_| self.unusable("its token server sent no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| self.unusable("its token server sent no token"))
    }

    /// Reads a whole response body, and fails beyond `limit` bytes.
    async fn whole(
        &self,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_long = || RegistryError::TooLong { host: self.name.clone(), what, limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let read = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.chunk(&mut response).await? {
                if bytes.len() as u64 + chunk.len() as u64 > limit {
                    return Err(too_long());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        timeout(DOCUMENT_TIME, read)
            .await
            .unwrap_or_else(|_| Err(RegistryError::Stalled { host: self.name.clone(), limit: DOCUMENT_TIME }))
    }

    /// Converts an error response to an error. `wanted` is `None` for a response of the token server.
    async fn refusal(&self, response: Response, wanted: Option<RegistryPath<'_>>) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        // A body that cannot be read does not hide the status.
        let body = self.whole(response, "an error", LONGEST_TOKEN).await.unwrap_or_default();
        let message = message(&body);
        let host = self.name.clone();
        match (status, wanted) {
            (StatusCode::NOT_FOUND, Some(wanted)) => {
                RegistryError::NotFound { host, what: format!("{}/{wanted}", self.repository), message }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.not_permitted(message),
            _ => RegistryError::Status { host, status: status.as_u16(), message, retry_after },
        }
    }

    fn not_permitted(&self, message: String) -> RegistryError {
        RegistryError::NotPermitted { host: self.name.clone(), message, shown: self.credentials.is_some() }
    }

    fn failed(&self, error: &reqwest::Error) -> RegistryError {
        self.down.store(true, Ordering::Relaxed);
        RegistryError::of_request(&self.name, self.timing.idle, error)
    }

    fn stalled(&self) -> RegistryError {
        self.down.store(true, Ordering::Relaxed);
        RegistryError::Stalled { host: self.name.clone(), limit: self.timing.idle }
    }

    /// Returns the error for a response that cannot be used.
    pub(super) fn unusable(&self, problem: &str) -> RegistryError {
        RegistryError::Answer { host: self.name.clone(), problem: problem.to_owned() }
    }
}

#[derive(serde::Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(serde::Deserialize)]
struct Refusal {
    errors: Vec<Reason>,
}

#[derive(serde::Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Extracts the message of a registry's error body, or the text of any other server's.
fn message(body: &[u8]) -> String {
    let first =
        serde_json::from_slice::<Refusal>(body).ok().and_then(|refusal| refusal.errors.into_iter().next());
    match first {
        Some(reason) if reason.message.is_empty() => sanitised(&reason.code),
        Some(reason) => sanitised(&reason.message),
        None if body.first() == Some(&b'<') => String::new(),
        None => sanitised(&String::from_utf8_lossy(body)),
    }
}
