//! Registries that stall, cut connections, lie and never end a response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_image::{FailureKind, ImageError, RegistryError};

use crate::images::{Cache, Image, RecordingProgress, lock, noise, plain, registry_error, sha256};
use crate::server::{Answer, Request, Server};

const SIZE: usize = 300_000;

/// How the server answers a request for a layer.
type Fault = fn(&mut Answer, &[u8]);

fn image() -> Image {
    Image::of(&[noise(1, SIZE), noise(2, 50)])
}

/// Serves `image`, and passes each numbered request for the first layer to `fault`.
fn layer_server(
    image: &Image,
    fault: impl Fn(usize, &Request, &mut Answer, &[u8]) -> bool + Send + Sync + 'static,
) -> Server {
    let layer = image.layers[0].clone();
    let hex = sha256(&layer).hex();
    let count = AtomicUsize::new(0);
    Server::new(image, move |request, answer| {
        request.path.ends_with(&hex) && fault(count.fetch_add(1, Ordering::SeqCst), request, answer, &layer)
    })
}

#[test]
fn a_pull_reports_progress_and_the_next_one_requests_only_the_tag() {
    let image = Image::of(&[noise(1, SIZE), noise(2, 50), noise(1, SIZE)]);
    let server = Server::new(&image, |_, _| false);
    let (cache, progress) = (Cache::new(), RecordingProgress::default());
    let name = format!("{}/a/b:c", server.host);
    let (manifest, layers) = cache.pull_with(&name, &plain(&server.host), &progress).unwrap();
    assert!(layers == image.layers);
    assert_eq!(manifest.digest, image.digest());
    assert_eq!((manifest.config.env.len(), manifest.config.working_dir.as_deref()), (1, Some("/w")));
    let total = SIZE as u64 + 50;
    assert_eq!(*lock(&progress.sum), (total, total), "a duplicate layer is downloaded once");
    assert_eq!(lock(&progress.parts)[&sha256(&image.layers[0]).short()], (SIZE as u64, SIZE as u64));
    assert_eq!(server.starts(&image.layers[0]), [0]);
    assert!(cache.partial().is_empty());

    let before = server.seen().len();
    let (_, again) = cache.pull_with(&name, &plain(&server.host), &progress).unwrap();
    assert!(again == image.layers);
    let methods: Vec<_> = server.seen()[before..].iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, ["HEAD"]);
    assert!(progress.log().contains("is in the cache"));

    let pinned = format!("{}/a/b@{}", server.host, image.digest());
    cache.pull(&pinned, &plain(&server.host)).unwrap();
    assert_eq!(server.seen().len(), before + 1, "a cached digest is not requested");
}

#[test]
fn a_registry_on_this_host_may_use_plain_http() {
    let image = image();
    let server = Server::new(&image, |_, _| false);
    let mut registries = plain(&server.host);
    registries.hosts.clear();
    let cache = Cache::new();
    assert!(cache.pull(&format!("{}/x", server.host), &registries).unwrap() == image.layers);
    assert_eq!(server.seen()[0].path, "/v2/");
}

#[test]
fn interrupted_transfers_are_resumed_at_the_same_byte() {
    for (name, at) in [("cut", 1), ("cut", SIZE / 2), ("cut", SIZE - 1), ("reset", 0), ("stall", 100_000)] {
        let image = image();
        let server = layer_server(&image, move |count, request, answer, layer| {
            if count >= 3 {
                return false;
            }
            let start = request.start();
            answer.part(start, layer, (start + at).min(layer.len() - 1));
            match name {
                "stall" => answer.stall(),
                "reset" => answer.reset(),
                _ => {}
            }
            true
        });
        let mut registries = plain(&server.host);
        if name == "stall" {
            registries.timing.idle = std::time::Duration::from_millis(300);
        }
        let layers = Cache::new().pull(&format!("{}/x", server.host), &registries).unwrap();
        assert!(layers == image.layers, "{name} {at}");
        let starts = server.starts(&image.layers[0]);
        assert!(starts.is_sorted() && starts.len() >= 4, "{name} {at}: {starts:?}");
        // A reset may lose bytes already received, and a busy machine may stall too.
        if name == "cut" {
            let resumed_at = |n: usize| (n * at).min(SIZE - 1);
            assert_eq!(starts, [0, resumed_at(1), resumed_at(2), resumed_at(3)], "{name} {at}");
        }
    }
}

#[test]
fn a_transfer_without_progress_fails_after_five_tries() {
    let image = image();
    let server = layer_server(&image, |_, request, answer, layer| {
        answer.part(request.start(), layer, request.start() + 10);
        true
    });
    let (cache, progress) = (Cache::new(), RecordingProgress::default());
    let pulled = cache.pull_with(&format!("{}/x", server.host), &plain(&server.host), &progress);
    let error = pulled.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    let RegistryError::Interrupted { done, size, .. } = registry_error::<()>(Err(error)) else { panic!() };
    assert_eq!((done, size), (50, SIZE as u64));
    assert_eq!(server.starts(&image.layers[0]), [0, 10, 20, 30, 40]);
    assert!(progress.log().contains("trying again in"));
    assert_eq!(cache.partial_of(&image.layers[0]), Some(50));
}

#[test]
fn a_transfer_with_progress_is_resumed_without_limit() {
    let image = Image::of(&[noise(5, 1_000_000)]);
    let server = layer_server(&image, |_, request, answer, layer| {
        answer.part(request.start(), layer, (request.start() + 70_000).min(layer.len()));
        true
    });
    let layers = Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)).unwrap();
    assert!(layers == image.layers);
    assert_eq!(server.starts(&image.layers[0]).len(), 15);
}

#[test]
fn a_failing_registry_is_tried_five_times() {
    for status in [500, 503, 429] {
        for bad in [4, 5] {
            let image = image();
            let count = AtomicUsize::new(0);
            let server = Server::new(&image, move |request, answer| {
                let is_faulty = request.method == "GET"
                    && request.path.contains("/manifests/")
                    && count.fetch_add(1, Ordering::SeqCst) < bad;
                if is_faulty {
                    let body = b"{\"errors\":[{\"code\":\"X\",\"message\":\"too \\u001b[31mmuch\\nof it\"}]}";
                    answer.send(status, &[("Retry-After", "0")], body);
                }
                is_faulty
            });
            let pulled = Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host));
            if bad == 4 {
                assert!(pulled.unwrap() == image.layers);
                continue;
            }
            let error = registry_error(pulled);
            assert_eq!(error.kind(), FailureKind::Unreachable);
            let expected = format!("{} answers with status {status} (too ^[[31mmuch)", server.host);
            assert_eq!(error.to_string(), expected);
        }
    }
}

#[test]
fn a_transfer_that_cannot_resume_starts_over() {
    let wrong_range = |answer: &mut Answer, layer: &[u8]| {
        let headers = [("Content-Range", "bytes 7-9/300000"), ("Content-Length", "3")];
        answer.head(206, &headers);
        answer.raw(&layer[7..10]);
    };
    let full_response = |answer: &mut Answer, layer: &[u8]| answer.send(200, &[], layer);
    let range_error = |answer: &mut Answer, _: &[u8]| answer.send(416, &[], b"");
    let faults: [(&str, Fault); 3] = [("206", wrong_range), ("200", full_response), ("416", range_error)];
    for (name, fault) in faults {
        let image = image();
        let server = layer_server(&image, move |count, _, answer, layer| {
            match count {
                0 => answer.part(0, layer, SIZE / 2),
                1 => fault(answer, layer),
                _ => return false,
            }
            true
        });
        let layers = Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host));
        assert!(layers.unwrap() == image.layers, "{name}");
        let starts = server.starts(&image.layers[0]);
        let expected = [0, SIZE / 2, 0];
        assert_eq!(starts, &expected[..if name == "200" { 2 } else { 3 }], "{name}");
    }
}

#[test]
fn wrong_lengths_and_digests_are_rejected() {
    let faults: [(&str, Fault, &str); 5] = [
        ("longer", |answer, layer| answer.send(200, &[], &[layer, b"x"].concat()), "and has 300001"),
        ("shorter", |answer, layer| answer.send(200, &[], &layer[1..]), "and has 299999"),
        (
            "longer, without a length",
            |answer, layer| {
                answer.head(200, &[]);
                answer.raw(layer);
                answer.raw(b"more");
            },
            "should have 300000 bytes and has",
        ),
        (
            "shorter, without a length",
            |answer, layer| {
                answer.head(200, &[]);
                answer.raw(&layer[..100]);
            },
            "broke after",
        ),
        ("other", |answer, _| answer.send(200, &[], &noise(9, SIZE)), "sent content with the digest"),
    ];
    for (name, fault, message) in faults {
        let image = image();
        let server = layer_server(&image, move |_, _, answer, layer| {
            fault(answer, layer);
            true
        });
        let cache = Cache::new();
        let error = registry_error(cache.pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert!(cache.blobs.get(&sha256(&image.layers[0])).unwrap().is_none());
        if name == "other" {
            assert_eq!(cache.partial_of(&image.layers[0]), None, "wrong content is not kept");
        }
    }
}

#[test]
fn documents_over_the_size_limit_are_rejected() {
    for endless in [false, true] {
        let image = image();
        let server = Server::new(&image, move |request, answer| {
            let is_faulty = request.method == "GET" && request.path.contains("/manifests/");
            if is_faulty {
                let headers = [("Content-Length", "50000000")];
                answer.head(200, if endless { &[] } else { &headers });
                for _ in 0..50 {
                    answer.raw(&vec![b' '; 1_000_000]);
                }
            }
            is_faulty
        });
        let error = registry_error(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(matches!(error, RegistryError::TooLong { limit: 4_194_304, .. }), "{error}");
    }
}

#[test]
fn invalid_documents_are_rejected() {
    for (body, message) in [
        (&b"{"[..], "the manifest cannot be read"),
        (b"{\"schemaVersion\":1,\"fsLayers\":[]}", "schema 1"),
        (b"{\"schemaVersion\":2}", "not an image manifest or index"),
        (b"{\"schemaVersion\":2,\"manifests\":[]}", "available platforms: none"),
        (b"<html>", "cannot be read"),
    ] {
        let image = image();
        let server = Server::new(&image, move |request, answer| {
            match request.method.as_str() {
                "HEAD" => answer.head(405, &[]),
                _ => answer.send(200, &[], body),
            }
            true
        });
        let error = registry_error(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_missing_manifest_is_reported_as_not_found() {
    let image = image();
    let server = Server::new(&image, |_, answer| {
        answer.send(
            404,
            &[],
            b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}",
        );
        true
    });
    let error = Cache::new().pull(&format!("{}/x:y", server.host), &plain(&server.host)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::NotFound);
    let expected = format!("{} does not have x/manifests/y (manifest unknown)", server.host);
    assert_eq!(registry_error::<()>(Err(error)).to_string(), expected);
}

#[test]
fn a_refused_connection_is_reported_as_unreachable() {
    let host = "127.0.0.1:1";
    let error = Cache::new().pull(&format!("{host}/x"), &plain(host)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    let message = registry_error::<()>(Err(error)).to_string();
    assert!(message.starts_with(&format!("cannot reach {host}: Connection refused")), "{message}");
}

#[test]
fn endless_redirects_are_rejected() {
    let image = image();
    let server = Server::new(&image, |request, answer| {
        answer.send(307, &[("Location", &request.path)], b"");
        true
    });
    let error = registry_error(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
    assert!(error.to_string().ends_with("too many redirects"), "{error}");
}

#[test]
fn damaged_blobs_in_the_cache_are_replaced() {
    let image = image();
    let server = Server::new(&image, |_, _| false);
    let name = format!("{}/x", server.host);
    let hex = sha256(&image.layers[0]).hex();
    for (file, length) in [
        (format!("{hex}.partial"), SIZE / 3),
        (format!("{hex}.partial"), SIZE),
        (format!("{hex}.partial"), SIZE + 1),
        (hex.clone(), SIZE),
        (hex, 5),
    ] {
        let cache = Cache::new();
        std::fs::write(cache.path(&file), vec![0; length]).unwrap();
        let layers = cache.pull(&name, &plain(&server.host)).unwrap();
        assert!(layers == image.layers, "{file} {length}");
        assert!(cache.partial().is_empty());
    }
}

#[test]
fn partial_blobs_are_resumed_and_full_length_ones_not_requested() {
    let image = image();
    let server = Server::new(&image, |_, _| false);
    for (length, expected) in [(SIZE / 3, &[SIZE / 3][..]), (SIZE, &[SIZE / 3])] {
        let cache = Cache::new();
        let file = cache.path(&format!("{}.partial", sha256(&image.layers[0]).hex()));
        std::fs::write(file, &image.layers[0][..length]).unwrap();
        assert!(cache.pull(&format!("{}/x", server.host), &plain(&server.host)).unwrap() == image.layers);
        assert_eq!(server.starts(&image.layers[0]), expected);
    }
}

#[test]
fn cancellation_stops_a_stalled_pull() {
    let image = image();
    let progress = Arc::new(RecordingProgress::default());
    let cancelling = Arc::clone(&progress);
    let server = layer_server(&image, move |_, _, answer, layer| {
        answer.part(0, layer, SIZE / 2);
        cancelling.cancel.store(true, Ordering::Relaxed);
        answer.stall();
        true
    });
    let mut registries = plain(&server.host);
    registries.timing.idle = std::time::Duration::from_secs(600);
    let cache = Cache::new();
    let pulled = cache.pull_with(&format!("{}/x", server.host), &registries, &*progress);
    assert!(matches!(pulled, Err(ImageError::Cancelled)), "{pulled:?}");
    assert!(cache.partial().len() <= 2);
}

#[test]
fn an_unpack_failure_stops_the_other_downloads() {
    let image = Image::of(&[noise(1, SIZE), noise(2, 50)]);
    let server = layer_server(&image, |_, _, answer, layer| {
        answer.part(0, layer, 10);
        answer.stall();
        true
    });
    let mut registries = plain(&server.host);
    registries.timing.idle = std::time::Duration::from_secs(600);
    let cache = Cache::new();
    let name = format!("{}/x", server.host).parse().unwrap();
    let remote =
        banger_image::Remote::resolve(&name, &registries, &cache.blobs, &RecordingProgress::default())
            .unwrap();
    let result: Result<Vec<()>, _> =
        remote.layers(&cache.blobs, &RecordingProgress::default(), |_, layer| {
            // The bytes received so far are enough to fail.
            let _ = layer.read(&mut [0; 5]);
            Err(ImageError::Apt { package: "x".to_owned(), problem: "bad" })
        });
    assert!(matches!(result, Err(ImageError::Apt { .. })), "{result:?}");
}
