//! The credentials that registries receive, and that no other host receives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use banger_image::{FailureKind, Registries, RegistryError};

use crate::images::{Cache, Image, lock, noise, plain, registry_error, sha256, user};
use crate::server::{Answer, Request, Server};

fn image() -> Image {
    Image::of(&[noise(1, 300_000)])
}

/// A token server that answers with `answer`.
fn token_server(answer: impl Fn(&Request, &mut Answer) + Send + Sync + 'static) -> Server {
    Server::new(&image(), move |request, to| {
        answer(request, to);
        true
    })
}

/// A registry that requires a token of `realm`. `accepts` decides which tokens are valid.
fn registry(realm: String, accepts: impl Fn(&str, &Request) -> bool + Send + Sync + 'static) -> Server {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"here\",scope=\"repository:x:pull\"");
    Server::new(&image(), move |request, answer| {
        let token = request.header("authorization").and_then(|token| token.strip_prefix("Bearer "));
        let refused = !token.is_some_and(|token| accepts(token, request));
        if refused {
            answer.send(401, &[("WWW-Authenticate", &challenge)], b"");
        }
        refused
    })
}

fn pull(registry: &Server, users: &[(&str, &str)]) -> Result<Vec<Vec<u8>>, banger_image::ImageError> {
    let credentials = users.iter().map(|(name, secret)| user(&registry.host, name, secret)).collect();
    let registries = Registries { credentials, ..plain(&registry.host) };
    Cache::new().pull(&format!("{}/x", registry.host), &registries)
}

#[test]
fn each_kind_of_credentials_fetches_a_token() {
    const QUERY: &str = "service=here&scope=repository%3Ax%3Apull";
    for (users, field) in
        [(&[][..], "token"), (&[("me", "secret")], "access_token"), (&[("", "identity")], "token")]
    {
        let token = token_server(move |_, answer| {
            answer.send(200, &[], format!("{{\"{field}\":\"good\",\"expires_in\":300}}").as_bytes());
        });
        let registry = registry(format!("http://{}/token", token.host), |token, _| token == "good");
        assert!(pull(&registry, users).unwrap() == image().layers);
        let seen = token.seen();
        assert_eq!(seen.len(), 1, "one token is enough");
        match users {
            [] => {
                assert_eq!(
                    (seen[0].path.clone(), seen[0].header("authorization")),
                    (format!("/token?{QUERY}"), None)
                );
            }
            [("me", _)] => {
                assert_eq!(seen[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
                assert_eq!(seen[0].path, format!("/token?{QUERY}"));
            }
            _ => {
                assert_eq!((&*seen[0].method, &*seen[0].path), ("POST", "/token"));
                let body = "grant_type=refresh_token&service=here&client_id=banger&\
                            scope=repository%3Ax%3Apull&refresh_token=identity";
                assert_eq!(seen[0].body, body);
            }
        }
        let leaked = registry.seen().iter().any(|request| format!("{request:?}").contains("bWU6c2VjcmV0"));
        assert!(!leaked, "the registry must not receive the password");
    }
}

#[test]
fn an_expired_token_is_renewed() {
    let count = AtomicUsize::new(0);
    let token = token_server(move |_, answer| {
        let token = count.fetch_add(1, Ordering::SeqCst);
        answer.send(200, &[], format!("{{\"token\":\"t{token}\"}}").as_bytes());
    });
    // The first token is valid for documents, but no longer for the layer.
    let hex = sha256(&image().layers[0]).hex();
    let accepts = move |token: &str, request: &Request| (token == "t1") == request.path.ends_with(&hex);
    let registry = registry(format!("http://{}/", token.host), accepts);
    assert!(pull(&registry, &[]).unwrap() == image().layers);
    assert_eq!(token.seen().len(), 2);
}

#[test]
fn unusable_token_responses_fail_the_pull() {
    type Handler = fn(&Request, &mut Answer);
    let handlers: [(&str, Handler, FailureKind); 6] = [
        ("never good", |_, answer| answer.send(200, &[], b"{\"token\":\"bad\"}"), FailureKind::NotPermitted),
        (
            "requires a token itself",
            |_, answer| {
                answer.send(401, &[("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/\"")], b"")
            },
            FailureKind::NotPermitted,
        ),
        ("no JSON", |_, answer| answer.send(200, &[], b"hello"), FailureKind::Invalid),
        ("no token", |_, answer| answer.send(200, &[], b"{}"), FailureKind::Invalid),
        ("a line break", |_, answer| answer.send(200, &[], b"{\"token\":\"a\\nb\"}"), FailureKind::Invalid),
        ("endless", |_, answer| answer.send(200, &[], &vec![b' '; 1 << 20]), FailureKind::Invalid),
    ];
    for (name, handler, kind) in handlers {
        let token = token_server(handler);
        let registry = registry(format!("http://{}/", token.host), |token, _| token == "good");
        let error = pull(&registry, &[("me", "secret")]).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error:?}");
        assert!(token.seen().len() <= 2, "{name}");
        assert!(!format!("{error:?}").contains("secret"));
    }
}

#[test]
fn a_token_server_that_does_not_use_http_is_rejected() {
    let registry = registry("ftp://127.0.0.1/".to_owned(), |_, _| false);
    let error = registry_error(pull(&registry, &[("me", "secret")]));
    assert!(matches!(error, RegistryError::InvalidResponse { .. }), "{error}");
}

#[test]
fn an_identity_token_is_not_sent_to_a_redirect_target() {
    let elsewhere = token_server(|_, answer| answer.send(200, &[], b"{\"token\":\"good\"}"));
    let location = format!("http://{}/", elsewhere.host);
    let token = token_server(move |_, answer| answer.send(307, &[("Location", &location)], b""));
    let registry = registry(format!("http://{}/", token.host), |token, _| token == "good");
    assert!(pull(&registry, &[("", "identity")]).is_err());
    assert!(elsewhere.seen().is_empty() && !token.seen().is_empty());
}

#[test]
fn credentials_are_not_sent_to_another_host_after_a_redirect() {
    let image = image();
    let elsewhere = Server::new(&image, |_, _| false);
    let layer = sha256(&image.layers[0]).hex();
    let starts: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (recorded_starts, host) = (Arc::clone(&starts), elsewhere.host.clone());
    let registry = Server::new(&image, move |request, answer| {
        if request.header("authorization") != Some("Basic bWU6c2VjcmV0") {
            answer.send(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b"");
        } else if request.path.ends_with(&layer) {
            lock(&recorded_starts).push(request.start());
            answer.send(307, &[("Location", &format!("http://{host}{}", request.path))], b"");
        } else {
            return false;
        }
        true
    });
    assert!(pull(&registry, &[("me", "secret")]).unwrap() == image.layers);
    let seen = elsewhere.seen();
    assert_eq!((seen.len(), seen[0].header("authorization")), (1, None));
    assert_eq!(*lock(&starts), [0]);
    assert_eq!(pull(&registry, &[("", "identity")]).unwrap_err().kind(), FailureKind::NotPermitted);
}
