//! Tests with Debian's `docker-registry`, filled by `skopeo`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use banger_api::Digest;
use banger_image::{FailureKind, Registries, RegistryError, RegistryHost};
use serde_json::json;

use crate::images::{
    Cache, GZIP, INDEX, Image, MANIFEST, RecordingProgress, ZSTD, descriptor, lock, noise, plain,
    registry_error, sha256, short_timing, user,
};

/// `docker-registry` on its own port.
struct Registry {
    host: String,
    program: Child,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        Self::start_with("", "")
    }

    /// Starts it with further configuration, of `http` and at the top level.
    fn start_with(http: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: 127.0.0.1:0\n{http}\n{more}\n",
            dir.path().display()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut program = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is needed: `cargo xtask setup`");
        let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().unwrap().contains("listening on")).unwrap().unwrap();
        let port: String =
            line.split("127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        // Drain the output: the registry would block on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { host: format!("127.0.0.1:{port}"), program, _dir: dir }
    }

    /// Pushes the image of an OCI layout.
    fn push(&self, layout: &Path, name: &str, more: &[&str]) {
        let status = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet"])
            .args(["--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci:{}:x", layout.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .status()
            .expect("skopeo is needed: `cargo xtask setup`");
        assert!(status.success());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }
}

/// Runs `program` with `input`, and returns its output.
fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Returns a tar with one file of `size` bytes.
fn tar(seed: u64, size: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("file{seed}")), noise(seed, size)).unwrap();
    let output = Command::new("tar").arg("-C").arg(dir.path()).args(["-c", "."]).output().unwrap();
    output.stdout
}

/// An image with one gzip layer and one zstd layer.
fn image(seed: u64, size: usize) -> Image {
    let (first, second) = (tar(seed, size), tar(seed + 1, size / 2));
    let gzip = piped("gzip", &["-1c"], &first);
    let zstd = piped("zstd", &["-1qc"], &second);
    Image::new(&[(gzip, GZIP, sha256(&first)), (zstd, ZSTD, sha256(&second))])
}

/// Creates an OCI layout with blobs, and `root` as its only image, with the tag `x`.
fn layout(blobs: &[&[u8]], media_type: &str, root: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sha = dir.path().join("blobs/sha256");
    fs::create_dir_all(&sha).unwrap();
    for bytes in blobs.iter().chain([&root]) {
        fs::write(sha.join(sha256(bytes).hex()), bytes).unwrap();
    }
    let mut root = descriptor(media_type, root);
    root["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
    let index = json!({"schemaVersion": 2, "manifests": [root]});
    fs::write(dir.path().join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    dir
}

fn layout_of(image: &Image) -> tempfile::TempDir {
    let mut blobs: Vec<&[u8]> = image.layers.iter().map(Vec::as_slice).collect();
    blobs.push(&image.config);
    layout(&blobs, MANIFEST, &image.manifest)
}

/// A relay between client and registry that records requests and can stop the transfer.
struct Relay {
    host: String,
    state: Arc<RelayState>,
    limit_reached: Receiver<()>,
}

#[derive(Default)]
struct RelayState {
    requests: Mutex<Vec<String>>,
    /// Bytes that clients may still receive.
    allowance: Mutex<Option<u64>>,
}

impl Relay {
    fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(RelayState::default());
        let (notify_limit, limit_reached) = channel();
        let (state_clone, target) = (Arc::clone(&state), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&target)) else { return };
                let (client_copy, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down, notify_limit) =
                    (Arc::clone(&state_clone), Arc::clone(&state_clone), notify_limit.clone());
                thread::spawn(move || up.upstream(client_copy, server));
                thread::spawn(move || down.downstream(back, client, &notify_limit));
            }
        });
        Self { host, state, limit_reached }
    }

    /// Returns the request lines since the last call, each with its range.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.state.requests))
    }

    /// Limits the bytes that pass from now on.
    fn allow(&self, bytes: Option<u64>) {
        *lock(&self.state.allowance) = bytes;
    }
}

impl RelayState {
    fn upstream(&self, client: TcpStream, mut server: TcpStream) {
        let mut head = String::new();
        for line in BufReader::new(client).lines() {
            let Ok(line) = line else { break };
            if server.write_all(format!("{line}\r\n").as_bytes()).is_err() {
                break;
            }
            let line = line.to_ascii_lowercase();
            if line.contains(" http/1.1") {
                head = line.trim_end_matches(" http/1.1").to_owned();
            } else if let Some(range) = line.strip_prefix("range: ") {
                head += &format!(" {range}");
            } else if line.is_empty() {
                lock(&self.requests).push(std::mem::take(&mut head));
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    }

    fn downstream(&self, mut server: TcpStream, mut client: TcpStream, notify_limit: &Sender<()>) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            let mut allowance = lock(&self.allowance);
            let now = allowance.map_or(n, |left| left.min(n as u64) as usize);
            if client.write_all(&buffer[..now]).is_err() {
                break;
            }
            if let Some(left) = allowance.as_mut() {
                *left -= now as u64;
                if *left == 0 {
                    drop(allowance);
                    let _ = notify_limit.send(());
                    // Send nothing more until the connection is closed.
                    let _ = std::io::copy(&mut server, &mut std::io::sink());
                    break;
                }
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}

fn blobs(requests: &[String]) -> Vec<&String> {
    requests.iter().filter(|request| request.contains("/blobs/")).collect()
}

/// Starts a pull in another process, configured by environment variables.
fn spawn_pull(name: &str, cache: &Path, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "real::pull_from_environment", "--nocapture"])
        .env("NAME", name)
        .env("CACHE", cache)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by other tests, in a separate process"]
fn pull_from_environment() {
    let Ok(name) = std::env::var("NAME") else { return };
    let cache = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("CACHE").map(PathBuf::from).unwrap_or(cache.path().to_owned());
    let registry = name.split('/').next().unwrap();
    let cache = Cache { blobs: banger_image::Blobs::open(&dir).unwrap(), dir: cache };
    let mut registries = plain(registry);
    registries.timing.idle = std::time::Duration::from_secs(600);
    if std::env::var_os("TLS").is_some() {
        registries.hosts.clear();
    }
    cache.pull(&name, &registries).unwrap();
}

#[test]
fn a_pull_downloads_each_blob_once() {
    let registry = Registry::start();
    let image = image(1, 400_000);
    registry.push(layout_of(&image).path(), "some/image:1", &[]);
    let relay = Relay::start(&registry.host);
    let (cache, registries) = (Cache::new(), plain(&relay.host));
    let name = format!("{}/some/image:1", relay.host);
    assert!(cache.pull(&name, &registries).unwrap() == image.layers);
    assert_eq!(blobs(&relay.requests()).len(), 3, "two layers and the configuration");
    assert!(cache.pull(&name, &registries).unwrap() == image.layers);
    assert_eq!(relay.requests(), ["head /v2/some/image/manifests/1"]);

    let pinned = format!("{}/some/image@{}", relay.host, image.digest());
    assert!(Cache::new().pull(&pinned, &registries).unwrap() == image.layers);
    let missing = Cache::new().pull(&format!("{}/some/image:2", relay.host), &registries).unwrap_err();
    assert_eq!(missing.kind(), FailureKind::NotFound);
}

#[test]
fn concurrent_pulls_download_each_layer_once() {
    let registry = Registry::start();
    let image = image(1, 3_000_000);
    registry.push(layout_of(&image).path(), "x:1", &[]);
    let relay = Relay::start(&registry.host);
    let (cache, registries) = (Cache::new(), plain(&relay.host));
    let name = format!("{}/x:1", relay.host);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| cache.pull(&name, &registries).unwrap())).collect();
        pulls.into_iter().for_each(|pull| assert!(pull.join().unwrap() == image.layers));
    });
    let requests = relay.requests();
    for layer in &image.layers {
        let hex = sha256(layer).hex();
        assert_eq!(requests.iter().filter(|request| request.contains(&hex)).count(), 1);
    }
    assert!(cache.partial().is_empty());
}

#[test]
fn the_index_entry_for_linux_amd64_is_pulled() {
    let registry = Registry::start();
    let ours = image(1, 1000);
    let platform = |bytes: &[u8], os: &str, architecture: &str, variant: Option<&str>| {
        let mut entry = descriptor(MANIFEST, bytes);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        if let Some(variant) = variant {
            entry["platform"]["variant"] = variant.into();
        }
        entry
    };
    let other = Image::of(&[noise(7, 100)]);
    let mut entries = vec![
        platform(&other.manifest, "unknown", "unknown", None),
        platform(&other.manifest, "linux", "arm64", Some("v8")),
        platform(&other.manifest, "linux", "amd64", Some("v3")),
        platform(&ours.manifest, "linux", "amd64", None),
    ];
    let mut all: Vec<&[u8]> =
        [&ours, &other].into_iter().flat_map(|i| &i.layers).map(Vec::as_slice).collect();
    all.extend([&ours.config[..], &other.config, &ours.manifest, &other.manifest]);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    registry.push(layout(&all, INDEX, index.as_bytes()).path(), "x:1", &[]);
    let (cache, registries, progress) = (Cache::new(), plain(&registry.host), RecordingProgress::default());
    let name = format!("{}/x:1", registry.host);
    let (manifest, layers) = cache.pull_with(&name, &registries, &progress).unwrap();
    assert!(layers == ours.layers && manifest.digest == ours.digest());
    let remote =
        banger_image::Remote::resolve(&name.parse().unwrap(), &registries, &cache.blobs, &progress).unwrap();
    assert_eq!(remote.tag_digest(), sha256(index.as_bytes()));
    let diff_ids: Vec<Digest> = [tar_digest("gzip", &layers[0]), tar_digest("zstd", &layers[1])].to_vec();
    assert_eq!(manifest.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(), diff_ids);

    entries.truncate(2);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    registry.push(layout(&all, INDEX, index.as_bytes()).path(), "x:2", &[]);
    let error = registry_error(cache.pull(&format!("{}/x:2", registry.host), &registries));
    assert_eq!(error.to_string(), "no image for linux/amd64; available platforms: linux/arm64/v8");
}

fn tar_digest(program: &str, compressed: &[u8]) -> Digest {
    sha256(&piped(program, &["-dc"], compressed))
}

#[test]
fn only_valid_credentials_are_accepted() {
    let output = Command::new("htpasswd").args(["-nbB", "somebody", "secret"]).output();
    let line = output.expect("htpasswd is needed: `cargo xtask setup`").stdout;
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    fs::write(&users, line).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: here, path: {}}}}}", users.display());
    let registry = Registry::start_with("", &auth);
    let image = image(1, 1000);
    registry.push(layout_of(&image).path(), "x:1", &["--dest-creds=somebody:secret"]);
    let name = format!("{}/x:1", registry.host);
    let pull = |credentials| {
        let registries = Registries { credentials, ..plain(&registry.host) };
        Cache::new().pull(&name, &registries)
    };
    assert!(pull(vec![user(&registry.host, "somebody", "secret")]).unwrap() == image.layers);
    for credentials in [
        vec![],
        vec![user(&registry.host, "somebody", "wrong")],
        vec![user("docker.io", "somebody", "secret")],
    ] {
        let error = pull(credentials).unwrap_err();
        assert_eq!(error.kind(), FailureKind::NotPermitted);
        let error = registry_error::<()>(Err(error));
        assert!(error.to_string().contains(&format!("`docker login {}`", registry.host)), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
    }
}

#[test]
fn a_private_certificate_requires_a_configured_ca() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        let done = command.args(args.split(' ')).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    fs::write(dir.path().join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -subj /CN=ca -days 2 -keyout ca.key -out ca.pem"));
    openssl(&format!("req {key} -subj /CN=here -keyout key -out request"));
    openssl(
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out certificate",
    );
    let path = |name: &str| dir.path().join(name);
    let tls =
        format!("  tls: {{certificate: {}, key: {}}}", path("certificate").display(), path("key").display());
    let registry = Registry::start_with(&tls, "");
    let image = image(1, 1000);
    registry.push(layout_of(&image).path(), "x:1", &[]);
    let pull = |ca: Option<&str>| {
        let host = RegistryHost { host: registry.host.clone(), ca: ca.map(path), ..RegistryHost::default() };
        let registries = Registries { hosts: vec![host], timing: short_timing(), ..Registries::default() };
        Cache::new().pull(&format!("{}/x:1", registry.host), &registries)
    };
    assert!(pull(Some("ca.pem")).unwrap() == image.layers);
    let error = registry_error(pull(None));
    assert!(matches!(error, RegistryError::Certificate { .. }), "{error:?}");
    for unusable in ["missing", "names"] {
        assert!(matches!(registry_error(pull(Some(unusable))), RegistryError::Ca { .. }), "{unusable}");
    }
    let name = format!("{}/x:1", registry.host);
    let ca = path("ca.pem");
    let variables = [("SSL_CERT_FILE", ca.to_str().unwrap()), ("TLS", "1")];
    let output = spawn_pull(&name, dir.path(), &variables).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_proxy_from_the_environment_is_used() {
    let registry = Registry::start();
    let image = image(1, 1000);
    registry.push(layout_of(&image).path(), "x:1", &[]);
    // A proxy that sends every request to the one registry, whatever the host.
    let proxy = Relay::start(&registry.host);
    let address = format!("http://{}", proxy.host);
    let cache = tempfile::tempdir().unwrap();
    let pull = spawn_pull("registry.example/x:1", cache.path(), &[("HTTP_PROXY", &address)]);
    let output = pull.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = proxy.requests();
    assert!(requests.iter().all(|request| request.contains("http://registry.example/v2/x/")), "{requests:?}");
    let around = [("HTTP_PROXY", &*address), ("NO_PROXY", "registry.example")];
    let output = spawn_pull("registry.example/x:2", cache.path(), &around).wait_with_output().unwrap();
    assert!(!output.status.success() && proxy.requests().is_empty());
}

#[test]
fn a_killed_pull_is_resumed() {
    let registry = Registry::start();
    let image = image(1, 1_000_000);
    let name = "x:1";
    registry.push(layout_of(&image).path(), name, &[]);
    let total: u64 = image.layers.iter().map(|layer| layer.len() as u64).sum();
    for allowed in [1, 200, 900, 3_000, 300_000, 700_000, 1_200_000, 1_490_000] {
        let relay = Relay::start(&registry.host);
        relay.allow(Some(allowed));
        let cache = Cache::new();
        let name = format!("{}/{name}", relay.host);
        let mut pull = spawn_pull(&name, cache.dir.path(), &[]);
        relay.limit_reached.recv().unwrap();
        pull.kill().unwrap();
        pull.wait().unwrap();
        relay.allow(None);
        relay.requests();
        let partial = cache.partial();
        assert!(cache.pull(&name, &plain(&relay.host)).unwrap() == image.layers, "{allowed}");
        let requests = relay.requests();
        for (name, length) in partial.into_iter().filter(|(_, length)| *length > 0) {
            let hex = name.trim_end_matches(".partial");
            let resumed = requests.iter().find(|request| request.contains(hex));
            let done = image.layers.iter().any(|layer| layer.len() as u64 == length);
            let expected = format!("bytes={length}-");
            assert!(done || resumed.unwrap().ends_with(&expected), "{allowed}: {requests:?}");
        }
        assert!(allowed < total && cache.partial().is_empty());
    }
}
