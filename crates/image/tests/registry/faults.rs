//! Registries that stall, cut connections, lie and never end a response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_image::{FailureKind, ImageError, RegistryError};

use crate::images::{Cache, Image, RecordingProgress, lock, noise, plain, refused, sha256};
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
fn a_good_pull_is_told_and_the_next_one_asks_only_for_the_tag() {
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
fn a_registry_on_this_host_may_go_without_tls() {
    let image = image();
    let server = Server::new(&image, |_, _| false);
    let mut registries = plain(&server.host);
    registries.hosts.clear();
    let cache = Cache::new();
    assert!(cache.pull(&format!("{}/x", server.host), &registries).unwrap() == image.layers);
    assert_eq!(server.seen()[0].path, "/v2/");
}

#[test]
fn breaks_are_resumed_where_they_were() {
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
            let then = |n: usize| (n * at).min(SIZE - 1);
            assert_eq!(starts, [0, then(1), then(2), then(3)], "{name} {at}");
        }
    }
}

#[test]
fn a_transfer_that_does_not_advance_ends() {
    let image = image();
    let server = layer_server(&image, |_, request, answer, layer| {
        answer.part(request.start(), layer, request.start() + 10);
        true
    });
    let (cache, progress) = (Cache::new(), RecordingProgress::default());
    let pulled = cache.pull_with(&format!("{}/x", server.host), &plain(&server.host), &progress);
    let error = pulled.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    let RegistryError::Interrupted { done, size, .. } = refused::<()>(Err(error)) else { panic!() };
    assert_eq!((done, size), (50, SIZE as u64));
    assert_eq!(server.starts(&image.layers[0]), [0, 10, 20, 30, 40]);
    assert!(progress.log().contains("trying again in"));
    assert_eq!(cache.partial_of(&image.layers[0]), Some(50));
}

#[test]
fn one_that_advances_goes_on_however_often_it_breaks() {
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
fn a_registry_out_of_order_is_asked_five_times() {
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
            let error = refused(pulled);
            assert_eq!(error.kind(), FailureKind::Unreachable);
            let expected = format!("{} answers with status {status} (too [31mmuch)", server.host);
            assert_eq!(error.to_string(), expected);
        }
    }
}

#[test]
fn what_does_not_resume_starts_over() {
    let wrong = |answer: &mut Answer, layer: &[u8]| {
        let headers = [("Content-Range", "bytes 7-9/300000"), ("Content-Length", "3")];
        answer.head(206, &headers);
        answer.raw(&layer[7..10]);
    };
    let whole = |answer: &mut Answer, layer: &[u8]| answer.send(200, &[], layer);
    let refuse = |answer: &mut Answer, _: &[u8]| answer.send(416, &[], b"");
    let faults: [(&str, Fault); 3] = [("206", wrong), ("200", whole), ("416", refuse)];
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
fn wrong_lengths_and_digests_are_refused() {
    let faults: [(&str, Fault, &str); 5] = [
        ("longer", |answer, layer| answer.send(200, &[], &[layer, b"x"].concat()), "and has 300001"),
        ("shorter", |answer, layer| answer.send(200, &[], &layer[1..]), "and has 299999"),
        (
            "longer without saying so",
            |answer, layer| {
                answer.head(200, &[]);
                answer.raw(layer);
                answer.raw(b"more");
            },
            "should have 300000 bytes and has",
        ),
        (
            "ends early without saying so",
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
        let error = refused(cache.pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert!(cache.blobs.get(&sha256(&image.layers[0])).unwrap().is_none());
        if name == "other" {
            assert_eq!(cache.partial_of(&image.layers[0]), None, "wrong content is not kept");
        }
    }
}

#[test]
fn documents_without_end_are_refused() {
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
        let error = refused(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(matches!(error, RegistryError::TooLong { limit: 4_194_304, .. }), "{error}");
    }
}

#[test]
fn bad_documents_are_refused() {
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
        let error = refused(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
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
    assert_eq!(refused::<()>(Err(error)).to_string(), expected);
}

#[test]
fn a_registry_that_is_not_there_is_unreachable() {
    let host = "127.0.0.1:1";
    let error = Cache::new().pull(&format!("{host}/x"), &plain(host)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unreachable);
    let message = refused::<()>(Err(error)).to_string();
    assert!(message.starts_with(&format!("cannot reach {host}: Connection refused")), "{message}");
}

#[test]
fn redirects_end() {
    let image = image();
    let server = Server::new(&image, |request, answer| {
        answer.send(307, &[("Location", &request.path)], b"");
        true
    });
    let error = refused(Cache::new().pull(&format!("{}/x", server.host), &plain(&server.host)));
    assert!(error.to_string().ends_with("too many redirects"), "{error}");
}

#[test]
fn damaged_leftovers_do_not_last() {
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
fn leftovers_are_resumed_and_whole_ones_not_even_asked_for() {
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
fn cancelling_ends_a_pull() {
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
fn what_cannot_be_unpacked_ends_the_other_downloads() {
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
