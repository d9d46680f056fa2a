//! Tests of valid, broken and hostile documents.

use banger_api::{Digest, ImageConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::manifest::*;
use crate::error::ManifestError;

const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn zero() -> Digest {
    ZERO.parse().unwrap()
}

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": ZERO, "size": 7})
}

fn document(value: &Value) -> Result<Document, ManifestError> {
    parse_document(value.to_string().as_bytes(), zero())
}

fn manifest(layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "config": descriptor(CONFIG), "layers": layers})
}

fn config(run: &Value) -> Value {
    json!({"os": "linux", "architecture": "amd64", "config": run, "rootfs": {"diff_ids": [ZERO]}})
}

#[track_caller]
fn assert_rejected<T: std::fmt::Debug>(result: Result<T, ManifestError>, message: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn a_manifest_and_its_configuration_are_parsed() {
    let layer = descriptor(LAYER);
    let parsed = parse_manifest(manifest(&[layer]).to_string().as_bytes(), zero()).unwrap();
    assert_eq!((parsed.config().digest, parsed.config().size), (zero(), 7));
    let run = json!({"Env": ["A=B"], "Cmd": null, "Entrypoint": ["/x", ""], "WorkingDir": "", "User": "1:2", "Other": 1});
    let image = parsed.clone().configure(config(&run).to_string().as_bytes()).unwrap();
    let expected = ImageConfig {
        env: vec!["A=B".to_owned()],
        working_dir: None,
        user: Some("1:2".to_owned()),
        entrypoint: vec!["/x".to_owned(), String::new()],
        cmd: Vec::new(),
    };
    assert_eq!(image.config, expected);
    assert_eq!(image.layers, [Layer { digest: zero(), size: 7, diff_id: zero() }]);
    let none =
        parsed.configure(b"{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"diff_ids\":null}}");
    assert_rejected(none, "the manifest has 1 layers, the configuration 0");
}

#[test]
fn the_index_entry_for_linux_amd64_is_chosen() {
    let entry = |size: u64, platform: Value| json!({"digest": ZERO, "size": size, "platform": platform});
    let index = |entries: &[Value]| {
        parse_index(json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes()).unwrap()
    };
    let arm = entry(1, json!({"os": "linux", "architecture": "arm", "variant": "v7"}));
    let with_variant = entry(2, json!({"os": "linux", "architecture": "amd64", "variant": "v3"}));
    let exact = entry(3, json!({"os": "linux", "architecture": "amd64"}));
    let attestation = entry(4, json!({"os": "unknown", "architecture": "unknown"}));
    let without_platform = json!({"digest": ZERO, "size": 5});
    let chosen = |entries: &[Value]| index(entries).choose().map(|entry| entry.size);
    assert_eq!(chosen(&[arm.clone(), with_variant.clone(), exact]).unwrap(), 3);
    assert_eq!(chosen(&[attestation.clone(), with_variant]).unwrap(), 2);
    assert_eq!(chosen(std::slice::from_ref(&without_platform)).unwrap(), 5);
    assert_rejected(chosen(&[without_platform.clone(), without_platform]), "available platforms: none");
    assert_rejected(
        chosen(&[arm.clone(), arm, attestation]),
        "no image for linux/amd64; available platforms: linux/arm/v7",
    );
    let odd = entry(1, json!({"os": "a\u{1b}[2Jb", "architecture": "c\nd"}));
    assert_rejected(chosen(&[odd]), "available platforms: a^[[2Jb/c");
}

#[test]
fn unsupported_manifests_are_rejected() {
    for (value, message) in [
        (json!({"schemaVersion": 1, "name": "x", "fsLayers": []}), "Docker schema 1"),
        (
            json!({"schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"), "layers": []}),
            "artifact",
        ),
        (json!({"schemaVersion": 2}), "not an image manifest or index"),
        (
            json!({"manifests": [], "config": descriptor(CONFIG), "layers": []}),
            "not an image manifest or index",
        ),
        (json!([]), "cannot be read"),
        (manifest(&vec![descriptor(LAYER); 257]), "more than 256 layers"),
        (
            manifest(&[json!({"mediaType": LAYER, "digest": ZERO, "size": 1, "urls": ["http://x"]})]),
            "licence",
        ),
        (manifest(&[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]), "licence"),
        (manifest(&[descriptor("application/vnd.oci.image.layer.v1.tar+encrypted")]), "has the type"),
        (manifest(&[json!({"mediaType": LAYER, "digest": ZERO, "size": -1})]), "cannot be read"),
        (manifest(&[json!({"mediaType": LAYER, "digest": "sha512:00", "size": 1})]), "cannot be read"),
        (manifest(&vec![json!({"mediaType": LAYER, "digest": ZERO, "size": u64::MAX}); 2]), "cannot have"),
    ] {
        assert_rejected(document(&value), message);
    }
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    assert_rejected(parse_manifest(index.as_bytes(), zero()), "not an image manifest");
    assert_rejected(parse_index(manifest(&[]).to_string().as_bytes()), "not an image index");
    assert_rejected(parse_document(&vec![b' '; 4 << 20 | 1], zero()), "more than 4194304 bytes");
}

#[test]
fn unusable_configurations_are_rejected() {
    let parse = |value: &Value| parse_config(value.to_string().as_bytes());
    for (run, message) in [
        (json!({"Env": ["A=\0"]}), "NUL in its environment variables"),
        (json!({"User": "\0"}), "NUL in its user"),
        (json!({"Cmd": vec!["x"; 5000]}), "more than 4096 command arguments"),
        (json!({"Cmd": "x"}), "cannot be read"),
        (json!({"Env": vec!["x".repeat(4000); 40]}), "more than 131072 bytes of variables and arguments"),
    ] {
        assert_rejected(parse(&config(&run)), message);
    }
    let mut other = config(&Value::Null);
    assert_eq!(parse(&other).unwrap().0, ImageConfig::default());
    other["architecture"] = "arm64".into();
    assert_rejected(parse(&other), "available platforms: linux/arm64");
}

proptest! {
    #[test]
    fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_document(&bytes, zero());
        let _ = parse_config(&bytes);
    }

    #[test]
    fn parsing_preserves_the_environment_and_the_user(
        env in prop::collection::vec("[^\0]{0,8}", 0..4),
        user in "[^\0]{0,4}",
    ) {
        let (parsed, _) = parse_config(config(&json!({"Env": env, "User": user})).to_string().as_bytes()).unwrap();
        prop_assert_eq!((parsed.env, parsed.user.unwrap_or_default()), (env, user));
    }
}
