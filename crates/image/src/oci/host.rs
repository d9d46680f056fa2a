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
use super::manifest::MAX_DOCUMENT;
use super::registries::{Registries, Route, Timing, is_loopback};
use crate::error::{RegistryError, sanitised};

/// Media types of the supported manifests and indexes.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Maximum size of a token server's response and of an error response, in bytes.
const MAX_TOKEN: u64 = 256 << 10;

/// Timeout for reading a whole response other than a blob, however slowly it arrives.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// One repository in one registry or mirror.
pub(super) struct RegistryEndpoint {
    pub(super) name: String,
    base: Url,
    repository: String,
    credentials: Option<Credentials>,
    client: Client,
    /// Client for requests with a secret in their body, which must not be redirected.
    no_redirect_client: Client,
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
        let credentials =
            registries.credentials.iter().find(|credentials| credentials.registry == route.name);
        // A second client is built only when needed, because each reads all of the system's CA certificates.
        let identity = credentials.is_some_and(|credentials| credentials.username.is_empty());
        let no_redirect_client = if identity { route.no_redirect_client()? } else { client.clone() };
        Ok(Self {
            name: route.name.to_owned(),
            base: route.base(&client).await?,
            repository: repository.to_owned(),
            credentials: credentials.cloned(),
            client,
            no_redirect_client,
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
    pub(super) async fn document(&self, path: RegistryPath<'_>) -> Result<Vec<u8>, RegistryError> {
        let response = self.send(Method::GET, path, 0).await?;
        self.read_body(response, "a manifest or configuration", MAX_DOCUMENT).await
    }

    /// Requests a blob from byte `from` on. The response's status says whether the registry honours the range.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response, RegistryError> {
        self.send(Method::GET, RegistryPath::Blob(digest), from).await
    }

    /// Reads the next chunk of a response's body.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, RegistryError> {
        match timeout(self.timing.idle, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| self.request_error(&error)),
            Err(_) => Err(self.timeout_error()),
        }
    }

    /// Sends a request. Returns responses with status 200, 206 or 416, and an error for any other.
    async fn send(
        &self,
        method: Method,
        path: RegistryPath<'_>,
        from: u64,
    ) -> Result<Response, RegistryError> {
        let url = format!("{}{}/{path}", self.base, self.repository);
        let request = |login: Option<&HeaderValue>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
            if let RegistryPath::Blob(_) = path {
                headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
            }
            headers.extend(login.map(|login| (AUTHORIZATION, login.clone())));
            let request = self.client.request(method.clone(), &url).headers(headers);
            if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request }
        };
        let login = self.login.lock().await.clone();
        let mut response = self.execute(request(login.as_deref())).await?;
        // Never log in to the target of a redirect.
        let same_origin = |url: &Url| url.origin() == self.base.origin();
        if response.status() == StatusCode::UNAUTHORIZED && same_origin(response.url()) {
            let login = self.log_in(login, response.headers()).await?;
            response = self.execute(request(Some(&login))).await?;
        }
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.error_response(response, Some(path)).await),
        }
    }

    async fn execute(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        match timeout(self.timing.idle, request.send()).await {
            Ok(response) => response.map_err(|error| self.request_error(&error)),
            Err(_) => Err(self.timeout_error()),
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
            (Some(Challenge::Basic), Some(credentials)) if !credentials.username.is_empty() => self
                .client
                .get(self.base.clone())
                .basic_auth(&credentials.username, Some(&credentials.secret)),
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let token = self.token(&realm, service, scope).await?;
                self.client.get(self.base.clone()).bearer_auth(token)
            }
            _ => return Err(self.not_permitted(String::new())),
        };
        // reqwest formats the header.
        let header = request.build().ok().and_then(|mut request| request.headers_mut().remove(AUTHORIZATION));
        let invalid_response = || self.invalid_response("its token contains invalid characters");
        let header = Arc::new(header.ok_or_else(invalid_response)?);
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
        let mut url = Url::parse(realm)
            .map_err(|_| self.invalid_response("the address of its token server is not a URL"))?;
        let private = match url.scheme() {
            "https" => true,
            "http" => self.base.scheme() == "http" || url.host_str().is_some_and(is_loopback),
            _ => false,
        };
        if !private {
            return Err(self.invalid_response("its token server does not use https"));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let request = match &self.credentials {
            // An empty user name means that the secret is an identity token.
            Some(credentials) if credentials.username.is_empty() => {
                let mut form = url.clone();
                form.query_pairs_mut()
                    .clear()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", &service.unwrap_or_default())
                    .append_pair("client_id", "banger")
                    .append_pair("scope", &scope)
                    .append_pair("refresh_token", &credentials.secret);
                let form = form.query().unwrap_or_default().to_owned();
                let kind = ("content-type", "application/x-www-form-urlencoded");
                self.no_redirect_client.post(url).header(kind.0, kind.1).body(form)
            }
            credentials => {
                let pairs = service.iter().map(|service| ("service", service)).chain([("scope", &scope)]);
                url.query_pairs_mut().extend_pairs(pairs);
                let request = self.client.get(url);
                match credentials {
                    Some(credentials) => request.basic_auth(&credentials.username, Some(&credentials.secret)),
                    None => request,
                }
            }
        };
        let response = self.execute(request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.error_response(response, None).await);
        }
        let bytes = self.read_body(response, "a token", MAX_TOKEN).await?;
        let token_response: Token = serde_json::from_slice(&bytes)
            .map_err(|_| self.invalid_response("its token server sent no token"))?;
        let token = token_response.token.or(token_response.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| self.invalid_response("its token server sent no token"))
    }

    /// Reads a whole response body, and fails beyond `limit` bytes.
    async fn read_body(
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
        timeout(DOCUMENT_TIMEOUT, read).await.unwrap_or_else(|_| {
            Err(RegistryError::Timeout { host: self.name.clone(), limit: DOCUMENT_TIMEOUT })
        })
    }

    /// Converts an error response to an error. `path` is `None` for a response of the token server.
    async fn error_response(&self, response: Response, path: Option<RegistryPath<'_>>) -> RegistryError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        // A body that cannot be read does not hide the status.
        let body = self.read_body(response, "an error", MAX_TOKEN).await.unwrap_or_default();
        let message = message(&body);
        let host = self.name.clone();
        match (status, path) {
            (StatusCode::NOT_FOUND, Some(path)) => {
                RegistryError::NotFound { host, what: format!("{}/{path}", self.repository), message }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.not_permitted(message),
            _ => RegistryError::Status { host, status: status.as_u16(), message, retry_after },
        }
    }

    fn not_permitted(&self, message: String) -> RegistryError {
        RegistryError::NotPermitted {
            host: self.name.clone(),
            message,
            authenticated: self.credentials.is_some(),
        }
    }

    fn request_error(&self, error: &reqwest::Error) -> RegistryError {
        self.down.store(true, Ordering::Relaxed);
        RegistryError::from_request(&self.name, self.timing.idle, error)
    }

    fn timeout_error(&self) -> RegistryError {
        self.down.store(true, Ordering::Relaxed);
        RegistryError::Timeout { host: self.name.clone(), limit: self.timing.idle }
    }

    /// Returns the error for a response that cannot be used.
    pub(super) fn invalid_response(&self, problem: &str) -> RegistryError {
        RegistryError::InvalidResponse { host: self.name.clone(), problem: problem.to_owned() }
    }
}

#[derive(serde::Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(serde::Deserialize)]
struct ErrorResponse {
    errors: Vec<ErrorDetail>,
}

#[derive(serde::Deserialize)]
struct ErrorDetail {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Extracts the message of a registry's error body, or the text of any other server's.
fn message(body: &[u8]) -> String {
    let first = serde_json::from_slice::<ErrorResponse>(body)
        .ok()
        .and_then(|error_response| error_response.errors.into_iter().next());
    match first {
        Some(detail) if detail.message.is_empty() => sanitised(&detail.code),
        Some(detail) => sanitised(&detail.message),
        None if body.first() == Some(&b'<') => String::new(),
        None => sanitised(&String::from_utf8_lossy(body)),
    }
}
