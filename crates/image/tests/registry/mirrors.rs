//! Mirrors: tried first, never trusted, never required.

use crate::images::{Cache, Image, RecordingProgress, noise, plain, registry_error, sha256};
use crate::server::{Request, Server};

fn image() -> Image {
    Image::of(&[noise(1, 300_000), noise(2, 50)])
}

fn blobs(server: &Server) -> usize {
    server.seen().iter().filter(|request| request.is_blob()).count()
}

/// Pulls from `registry` with `mirrors`.
fn pull(
    registry: &Server,
    mirrors: &[String],
    progress: &RecordingProgress,
) -> Result<Vec<Vec<u8>>, banger_image::ImageError> {
    let mut registries = plain(&registry.host);
    registries.hosts[0].mirrors = mirrors.to_vec();
    Cache::new().pull_with(&format!("{}/x", registry.host), &registries, progress).map(|(_, layers)| layers)
}

#[test]
fn a_pull_from_a_mirror_does_not_contact_the_registry() {
    let image = image();
    let (registry, mirror) = (Server::new(&image, |_, _| false), Server::new(&image, |_, _| false));
    let layers =
        pull(&registry, &[format!("http://{}/", mirror.host)], &RecordingProgress::default()).unwrap();
    assert!(layers == image.layers);
    assert_eq!((registry.seen().len(), blobs(&mirror)), (0, 3));
}

#[test]
fn failures_of_mirrors_fall_back_to_the_registry() {
    let image = image();
    let unreachable = "127.0.0.1:1".to_owned();
    type Fault = fn(&Request, &mut crate::server::Answer, &[u8]) -> bool;
    let faults: [(&str, Fault); 4] = [
        ("wrong content", |_, answer, layer| {
            answer.send(200, &[], &noise(9, layer.len()));
            true
        }),
        ("interrupted", |_, answer, layer| {
            answer.part(0, layer, 100_000);
            true
        }),
        ("interrupted, with wrong content", |_, answer, layer| {
            answer.part(0, &noise(9, layer.len()), 100_000);
            true
        }),
        ("not found", |_, answer, _| {
            answer.send(404, &[], b"");
            true
        }),
    ];
    for (name, fault) in faults {
        let registry = Server::new(&image, |_, _| false);
        let layer = image.layers[0].clone();
        let hex = sha256(&layer).hex();
        let mirror = Server::new(&image, move |request, answer| {
            request.path.ends_with(&hex) && fault(request, answer, &layer)
        });
        let progress = RecordingProgress::default();
        let mirrors = [unreachable.clone(), format!("http://{}", mirror.host), "not a host".to_owned()];
        assert!(pull(&registry, &mirrors, &progress).unwrap() == image.layers, "{name}: {}", progress.log());
        assert!(progress.log().contains("skipping a mirror"));
        assert!(!registry.starts(&image.layers[0]).is_empty());
        if name == "interrupted" {
            assert_eq!(registry.starts(&image.layers[0]), [100_000], "{}", progress.log());
        }
    }
}

#[test]
fn if_all_hosts_fail_the_registrys_error_is_returned() {
    let image = image();
    let registry = Server::new(&image, |_, answer| {
        answer.send(404, &[], b"");
        true
    });
    let error = registry_error(pull(&registry, &["127.0.0.1:1".to_owned()], &RecordingProgress::default()));
    assert!(error.to_string().starts_with(&registry.host), "{error}");
}
